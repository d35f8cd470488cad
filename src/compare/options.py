"""The options of compare.py, which are flags or keys of a study's file."""

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ActionConfigFile, ArgumentParser

from src.cli.mistakes import CommandLine, arguments_of
from src.cli.parser import fail, failing_on_mistakes
from src.compare.figure_spec import FigureSpec
from src.compare.grid import NAMED, Arm, Axis, make_arms, make_axes, parse_norm, split
from src.machine import REPOSITORY

QUICK = REPOSITORY / "configs/debug.yaml"
TRAIN_PY = "trainer|model|data|norm_statistics|evaluation_pictures|timeout"
"""The first parts of train.py's options, as a regular expression."""

CHOSEN = {"seed_everything", "experiment", "ckpt_path", "config", "trainer.default_root_dir", "trainer.logger"}
"""Options of train.py that compare.py chooses for each run: which run it is, and where its folder is."""

SWITCHES = {
    "quick": "Train for one epoch of a few batches, at most two seeds and in another folder, to see that all works.",
    "dry_run": "List the runs and start none.",
}


@dataclass
class Options:
    """Train with each norm, batch size and learning rate, over the same seeds, and compare.

    Args:
        config: a configuration of train.py; a later one overrides an earlier one (`--config A --config B`).
        norms: the norms to compare: `BatchNorm,GroupNorm(num_groups=8),null`, or a list in the form of a configuration.
        batch_sizes: the values of data.batch_size to compare: `16,64`.
        learning_rates: the values of model.recipe.lr to compare: `0.01,0.1`.
        vary: further options of train.py, each with a list of values to compare: `{data.scaling: [none, minmax]}`.
        set: options of train.py for every run; flags such as `--trainer.max_epochs=3` do the same.
        seeds: the number of seeds, which are 0, 1, 2, ...
        measures: further columns of the table: by name, a TensorBoard scalar, for its mean over a run, or with [-1] for
            its last value: `{eval gap: norms/eval_gap/*, train loss: "train/loss_epoch[-1]"}`.
        figure: a figure of the means against an axis, in place of the usual chart:
            `{x: lr, lines: init_scale, panels: norm}`.
        baseline: the value with which the others of its axis are compared; if empty, the first value of the first axis.
        target: a validation accuracy; the table then has the epochs and seconds until a run reaches it.
        jobs: the number of runs at once on one machine; they share its cores.
        output: the folder of the comparison; by default runs/compare/ and the name of the study or the configuration.
        quick: see `SWITCHES`.
        dry_run: see `SWITCHES`.
        ray: the address of the Ray cluster that executes the runs, such as `auto` or `10.0.0.1:6379`.
    """

    config: str | list[str] = field(default_factory=list)
    norms: str | list[Any] | None = field(default_factory=list)
    batch_sizes: int | str | list[int] = field(default_factory=list)
    learning_rates: float | str | list[float] = field(default_factory=list)
    vary: dict[str, Any] = field(default_factory=dict)
    set: dict[str, Any] = field(default_factory=dict)
    seeds: int = 3
    measures: dict[str, str] = field(default_factory=dict)
    figure: FigureSpec | None = None
    baseline: str | None = ""
    target: float | None = None
    jobs: int = 1
    output: str | None = None
    quick: bool = False
    dry_run: bool = False
    ray: str | None = None

    @property
    def configs(self) -> list[str]:
        return split(self.config)

    def axes(self) -> list[Axis]:
        norms = [parse_norm(value) for value in split(self.norms)]
        named = dict(zip(NAMED, (norms, self.batch_sizes, self.learning_rates), strict=True))
        varied = {option: values for option, values in named.items() if values != []}
        check_options([*varied, *self.vary, *self.set])
        axes = make_axes({**varied, **self.vary})
        if self.figure:
            self.figure.check(axes, list(self.measures))
        return axes

    def arms(self, axes: Sequence[Axis]) -> list[Arm]:
        return make_arms(axes, self.set)

    def make_quick(self) -> None:
        """Apply `--quick`: set the limits of configs/debug.yaml, which override all other options."""
        limits = yaml.safe_load(QUICK.read_text())["trainer"]
        self.set |= {f"trainer.{name}": value for name, value in limits.items()}
        self.seeds = min(self.seeds, 2)
        self.output = f"{self.output}_quick"


def check_options(names: Sequence[str]) -> None:
    """Raise a ValueError if an option is given in two places, or if compare.py chooses it."""
    names = [name.replace(".init_args.", ".") for name in names]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{name} is given twice: once among norms, batch_sizes, learning_rates, vary and set")
        if name in CHOSEN:
            raise ValueError(f"{name} cannot be set or varied: compare.py chooses it for each run")


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="compare.py", allow_abbrev=False, exit_on_error=False, description=(Options.__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--study", action=ActionConfigFile, help="A YAML file with these options as its keys.")
    parser.add_class_arguments(Options, as_group=False, skip=set(SWITCHES))
    for name, text in SWITCHES.items():
        parser.add_argument(f"--{name}", action="store_true", help=text)
    return parser


def parse(arguments: list[str]) -> Options:
    """The options of a command: `--config` may be repeated, and options of train.py are added to `set`."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config", action="append")
    given, rest = first.parse_known_args(arguments)
    own, train_options = _separate(rest)
    if given.config:
        own.append(f"--config={json.dumps(given.config)}")
    parser = make_parser()
    known = CommandLine({**arguments_of(Options), "study": Any}, {}, "study", {}, "python compare.py --help")
    with failing_on_mistakes(own, known):
        namespace = parser.instantiate_classes(parser.parse_args(own))
    study = namespace.pop("study")
    options = Options(**vars(namespace))
    if not options.configs:
        fail("nothing to compare: give --config=configs/digits.yaml and --norms=BatchNorm,LayerNorm, or --study=FILE")
    options.set = {**options.set, **train_options}
    named_by = Path(study[-1].relative if study else options.configs[0])
    options.output = options.output or str(Path("runs/compare", named_by.stem))
    if options.quick:
        options.make_quick()
    for name in ("seeds", "jobs"):
        if getattr(options, name) < 1:
            fail(f"{name}={getattr(options, name)}: expected a number above 0")
    return options


def _separate(arguments: list[str]) -> tuple[list[str], dict[str, str]]:
    """Separate the arguments of compare.py from the options of train.py."""
    own, train_options = [], {}
    remaining = iter(arguments)
    for argument in remaining:
        if found := re.fullmatch(rf"--((?:{TRAIN_PY})\b[^=]*)(?:=(.*))?", argument, re.DOTALL):
            name, value = found[1], found[2] if found[2] is not None else next(remaining, None)
            if value is None:
                fail(f"--{name} has no value: --{name}=VALUE")
            if name.endswith("+") and name in train_options:
                fail(f"--{name} is given twice: give a list, --{name}='[FIRST, SECOND]'")
            train_options[name] = value
        else:
            own.append(argument)
    return own, train_options
