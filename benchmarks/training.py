"""How fast `train.py` trains, beside a hand-written loop and beside the usual template.

    python -m benchmarks.training
    python -m benchmarks.training --cases small-digits --rounds 3
    python -m benchmarks.training --whole-runs

All three train the same network with the same optimizer and schedule on the same samples, in turns, in one process;
`train.py` is all of it: command line, metrics, TensorBoard, checkpoints, progress bar on a terminal. The hand-written
loop computes nothing that the network does not need. What is timed are whole steps, from the end of an epoch's fifth
step to the end of its last.

With --whole-runs: two processes, train.py and the template, from nothing to the test accuracy on Fashion-MNIST.
"""

import argparse
import contextlib
import math
import os
import pty
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from benchmarks.machine import conditions
from benchmarks.template import OURS, TemplateModule, loader, template_trainer
from src.cli import TrainCLI
from src.data import ClassificationData, ImageData
from src.data.augment import augment
from src.data.sampler import BatchSampler
from src.data.scaling import fit_scaling, value_counts
from src.models import Classifier

SMALL_NET = ["--model=benchmarks.small.SmallNet", "--model.norm=BatchNorm"]
SMALL_TEXT = ["--model.hidden_size=32", "--model.num_layers=1", "--model.num_heads=2"]
# The plain loop drops no tokens.
R8 = ["--config=configs/reuters8.yaml", "--data.token_dropout=0"]
CASES = {
    "small-digits": ["--data=Digits", *SMALL_NET, "--model.width=48"],
    "small-fashion": ["--data=FashionMNIST", "--data.batch_size=64", *SMALL_NET, "--model.width=16"],
    "small-r8": [*R8, "--data.batch_size=16", "--data.max_length=64", *SMALL_TEXT],
    "digits": ["--config=configs/digits.yaml"],
    "fashion": ["--config=configs/fashion_mnist.yaml"],
    "r8": R8,
}
"""Arguments of train.py: the same model at about 5 ms a step on one core, and the configurations as they are."""

WARM_UP = 5


@dataclass
class Clock:
    """Seconds of the steps after an epoch's first ones."""

    steps: int = 0
    wall: float = 0.0
    cpu: float = 0.0
    _since: tuple[float, float] = field(default=(0.0, 0.0))

    def tick(self, step: int) -> None:
        """Step `step` of an epoch, counted from 0, has ended."""
        now = time.perf_counter(), time.process_time()
        if step >= WARM_UP:
            self.steps += 1
            self.wall += now[0] - self._since[0]
            self.cpu += now[1] - self._since[1]
        self._since = now


class Stopwatch(Callback):
    """Ticks at the end of each training step."""

    def __init__(self) -> None:
        self.clock = Clock()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.clock.tick(batch_idx)


@contextlib.contextmanager
def terminal() -> Iterator[None]:
    """Standard output is a terminal that nobody reads, since a progress bar costs nothing without one."""
    ours, theirs = pty.openpty()

    def drain() -> None:
        with contextlib.suppress(OSError):
            while os.read(ours, 1 << 16):
                pass

    reader = threading.Thread(target=drain, daemon=True)
    reader.start()
    with os.fdopen(theirs, "w") as file, contextlib.redirect_stdout(file):
        yield
    reader.join()
    os.close(ours)


class WatchedCLI(TrainCLI):
    """train.py, with a stopwatch beside its callbacks."""

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        trainer = super().instantiate_trainer(**kwargs)
        self.stopwatch = Stopwatch()
        trainer.callbacks.append(self.stopwatch)  # type: ignore[attr-defined]
        return trainer


def run_ours(arguments: list[str], folder: str, steps: int) -> tuple[Clock, WatchedCLI]:
    """`train.py fit ARGUMENTS` for about `steps` steps."""
    few = ["--trainer.accelerator=cpu", f"--trainer.max_steps={steps}", f"--trainer.limit_train_batches={steps}"]
    few += ["--trainer.limit_val_batches=1", "--trainer.limit_test_batches=1", f"--trainer.default_root_dir={folder}"]
    before = sys.argv
    sys.argv = ["train.py", "fit", *arguments, *few]
    try:
        with terminal():
            cli = WatchedCLI()
    finally:
        sys.argv = before
    return cli.stopwatch.clock, cli


def preparation(data: ClassificationData, train: Any) -> Callable[[Any], Any]:
    """What is done to a batch of the training split before the network sees it: images are augmented and scaled."""
    if not isinstance(data, ImageData):
        return lambda batch: batch
    scaling = fit_scaling(data.scaling, value_counts(train.pixels, train.rows))
    return lambda batch: (scaling(augment(batch[0], data.crop_padding, data.flip)), batch[1])


def run_plain(model: Classifier, data: ClassificationData, steps: int) -> Clock:
    """A loop of the network's own work alone, on the batches of `train.py`."""
    train: Any = data.datasets["train"]
    prepare = preparation(data, train)
    sampler = BatchSampler(len(train), data.batch_size, shuffle=True, drop_last=True, lengths=train.lengths)
    optimizer = model.recipe.build_optimizer(model.parameters())
    schedule = model.recipe.build_schedule(optimizer, steps)
    model.train()
    clock = Clock()
    for epoch in range(math.ceil(steps / len(sampler))):
        sampler.set_epoch(epoch)
        for step, rows in enumerate(sampler):
            if epoch * len(sampler) + step == steps:
                break
            inputs, labels = prepare(train[rows])
            loss = model.loss(model(inputs), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            clock.tick(step)
    return clock


def run_template(model: Classifier, data: ClassificationData, folder: str, steps: int) -> Clock:
    """The usual template with the same network."""
    stopwatch = Stopwatch()
    options = {"max_steps": steps, "limit_train_batches": steps, "limit_val_batches": 1, "accelerator": "cpu"}
    with terminal():
        trainer = template_trainer(folder, callbacks=[stopwatch], **options)
        module = TemplateModule(model, data.num_classes)
        trainer.fit(module, loader(data, "train"), loader(data, "val"))
    return stopwatch.clock


def measure(arguments: list[str], rounds: int, steps: int) -> dict[str, list[float]]:
    """Of each round: milliseconds of wall and CPU time a step, and samples per second."""
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            ours, cli = run_ours(arguments, folder, steps)
            model, data = cli.model, cli.datamodule
            clocks = {"ours": ours, "plain": run_plain(model, data, steps)}
            clocks["template"] = run_template(model, data, folder, steps)
        for name, clock in clocks.items():
            found.setdefault(f"{name} ms", []).append(1000 * clock.cpu / clock.steps)
            found.setdefault(f"{name} samples/s", []).append(data.batch_size * clock.steps / clock.wall)
        found.setdefault("plain/ours", []).append(clocks["plain"].wall * ours.steps / clocks["plain"].steps / ours.wall)
        found.setdefault("plain/ours, CPU", []).append(
            clocks["plain"].cpu * ours.steps / clocks["plain"].steps / ours.cpu
        )
        found.setdefault("template/ours", []).append(
            clocks["template"].wall * ours.steps / clocks["template"].steps / ours.wall
        )
    return found


def table(cases: list[str], rounds: int, steps: int, roots: dict[str, str]) -> str:
    """The Markdown table of these cases, medians over the rounds."""
    lines = [
        "| case | plain loop, ms a step | samples/s: plain loop | template | train.py "
        "| train.py / plain | by CPU time | train.py / template |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for case in cases:
        root = next((root for name, root in roots.items() if name in case), "data")
        found = measure([*CASES[case], f"--data.root={root}"], rounds, steps)
        middle = {name: statistics.median(values) for name, values in found.items()}
        speeds = " | ".join(f"{middle[f'{side} samples/s']:.0f}" for side in ("plain", "template", "ours"))
        ratios = " | ".join(f"{middle[name]:.2f}" for name in ("plain/ours", "plain/ours, CPU", "template/ours"))
        lines.append(f"| {case} | {middle['plain ms']:.1f} | {speeds} | {ratios} |")
        print(lines[-1], file=sys.stderr, flush=True)
    return "\n".join(lines)


def whole_run(command: list[str], folder: str) -> tuple[float, float, float]:
    """Seconds, CPU seconds with those of worker processes, and test accuracy of a process."""
    before, since = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    done = subprocess.run([sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True)
    seconds, after = time.perf_counter() - since, resource.getrusage(resource.RUSAGE_CHILDREN)
    found = re.search(r"^Test accuracy  (\S+)$", done.stdout, re.MULTILINE)
    if not found:
        raise RuntimeError(f"{command} ended with {done.returncode}:\n{done.stderr}")
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, float(found[1])


def whole_runs_table(fashion_root: str) -> str:
    """The Markdown table of two whole processes that train the same network by the same recipe."""
    commands = {
        "train.py": [str(Path("train.py").resolve()), "fit", *OURS, f"--data.root={fashion_root}"],
        "template": ["-m", "benchmarks.template", fashion_root],
    }
    lines = ["| process | seconds | CPU seconds | test accuracy |", "|---|---|---|---|"]
    for name, command in commands.items():
        with tempfile.TemporaryDirectory() as folder:
            seconds, cpu, accuracy = whole_run(command, folder)
        lines.append(f"| {name} | {seconds:.0f} | {cpu:.0f} | {accuracy:.4f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=60, help="of each side in each round")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--fashion-root", default="/usr/share/datasets/fashion-mnist")
    parser.add_argument("--text-root", default="data")
    parser.add_argument("--whole-runs", action="store_true", help="minutes")
    options = parser.parse_args()
    if options.whole_runs:
        print(f"{whole_runs_table(options.fashion_root)}\n\n{conditions()}")
        return
    torch.set_num_threads(options.threads)
    roots = {"fashion": options.fashion_root, "r8": options.text_root}
    print(table(options.cases, options.rounds, options.steps, roots))
    print(f"\nMedians of {options.rounds} rounds of {options.steps} steps. {conditions()}")


if __name__ == "__main__":
    main()
