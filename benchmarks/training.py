"""How fast `train.py` trains, beside a hand-written loop and beside the usual template.

    python -m benchmarks.training
    python -m benchmarks.training --cases small-digits --rounds 3

In each round all three train the same network with the same optimizer and schedule on the same samples, one after the
other in one process. `train.py` runs with its command line, metrics, TensorBoard, checkpoints and a progress bar on a
terminal. The hand-written loop computes only what the network needs. Whole steps are timed, from the end of an epoch's
fifth step to the end of its last step.
"""

import contextlib
import math
import os
import pty
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from lightning import Callback, LightningModule, Trainer

from benchmarks.template import TemplateModule, loader, template_trainer
from benchmarks.timing import conditions, options_parser
from src.cli import TrainCLI
from src.data import ClassificationData, ImageData
from src.data.augment import augment
from src.data.sampler import BatchSampler
from src.data.scaling import fit_scaling, value_counts
from src.markdown import markdown_table
from src.models import Classifier

SMALL_NET = ["--model=benchmarks.template.SmallNet", "--model.norm=BatchNorm"]
SMALL_TEXT = ["--model.hidden_size=32", "--model.num_layers=1", "--model.num_heads=2"]
# Without token dropout, which the plain loop does not do.
R8 = ["--config=configs/reuters8.yaml", "--data.token_dropout=0"]
CASES = {
    "small-digits": ["--data=Digits", *SMALL_NET, "--model.width=48"],
    "small-fashion": ["--data=FashionMNIST", "--data.batch_size=64", *SMALL_NET, "--model.width=16"],
    "small-r8": [*R8, "--data.batch_size=16", "--data.max_length=64", *SMALL_TEXT],
    "digits": ["--config=configs/digits.yaml"],
    "fashion": ["--config=configs/fashion_mnist.yaml"],
    "r8": R8,
}
"""Arguments of train.py: small networks of about 5 ms a step on one core, and the configurations as they are."""

WARM_UP = 5


class Lap(NamedTuple):
    """The seconds of a training step, since the end of the step before it."""

    step: int  # of its epoch, from 0
    wall: float
    cpu: float


class Clock:
    """Times the steps of a training."""

    def __init__(self) -> None:
        self.laps: list[Lap] = []
        self._since = 0.0, 0.0

    def tick(self, step: int) -> None:
        """Step `step` of an epoch, counted from 0, has ended."""
        now = time.perf_counter(), time.process_time()
        self.laps.append(Lap(step, now[0] - self._since[0], now[1] - self._since[1]))
        self._since = now

    def means(self) -> tuple[float, float]:
        """Mean wall and CPU seconds of a step, without the first steps of each epoch."""
        laps = [lap for lap in self.laps if lap.step >= WARM_UP]
        return statistics.fmean(lap.wall for lap in laps), statistics.fmean(lap.cpu for lap in laps)


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
    """Within the block standard output is a terminal, without which a progress bar costs nothing. Nobody reads it."""
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
    """train.py with a stopwatch among its callbacks."""

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
    """A function that prepares a batch of the training split for the network: it augments and scales images."""
    if not isinstance(data, ImageData):
        return lambda batch: batch
    scaling = fit_scaling(data.scaling, value_counts(train.pixels, train.rows))
    return lambda batch: (scaling(augment(batch[0], data.crop_padding, data.flip)), batch[1])


def run_plain(model: Classifier, data: ClassificationData, steps: int) -> Clock:
    """Train on the batches of `train.py` in a loop that does only the network's own work."""
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
    """Train the same network in the usual template."""
    stopwatch = Stopwatch()
    options = {"max_steps": steps, "limit_train_batches": steps, "limit_val_batches": 1, "accelerator": "cpu"}
    with terminal():
        trainer = template_trainer(folder, callbacks=[stopwatch], **options)
        module = TemplateModule(model, data.num_classes)
        trainer.fit(module, loader(data, "train"), loader(data, "val"))
    return stopwatch.clock


def measure(arguments: list[str], rounds: int, steps: int) -> dict[str, float]:
    """Medians over the rounds, for each side: milliseconds of CPU time a step, samples per second, and ratios."""
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            ours, cli = run_ours(arguments, folder, steps)
            model, data = cli.model, cli.datamodule
            clocks = {"ours": ours, "plain": run_plain(model, data, steps)}
            clocks["template"] = run_template(model, data, folder, steps)
        wall, cpu = ({side: clock.means()[i] for side, clock in clocks.items()} for i in range(2))
        values = {f"{side} samples/s": data.batch_size / wall[side] for side in clocks}
        values["plain ms"] = 1000 * cpu["plain"]
        values |= {f"{side}/ours": wall[side] / wall["ours"] for side in ("plain", "template")}
        values["plain/ours, CPU"] = cpu["plain"] / cpu["ours"]
        for name, value in values.items():
            found.setdefault(name, []).append(value)
    return {name: statistics.median(samples) for name, samples in found.items()}


def row(case: str, rounds: int, steps: int, root: str) -> list[object]:
    found = measure([*CASES[case], f"--data.root={root}"], rounds, steps)
    speeds = [f"{found[f'{side} samples/s']:.0f}" for side in ("plain", "template", "ours")]
    ratios = [found[name] for name in ("plain/ours", "plain/ours, CPU", "template/ours")]
    return [case, f"{found['plain ms']:.1f}", *speeds, *ratios]


HEADER = ["case", "plain loop, ms a step", "samples/s: plain loop", "template", "train.py"]
HEADER += ["train.py / plain", "by CPU time", "train.py / template"]


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=60, help="of each side in each round")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--fashion-root", default="/usr/share/datasets/fashion-mnist")
    parser.add_argument("--text-root", default="data")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    roots = {"fashion": options.fashion_root, "r8": options.text_root}
    rows = []
    for case in options.cases:
        root = next((root for name, root in roots.items() if name in case), "data")
        rows.append(row(case, options.rounds, options.steps, root))
        print(*rows[-1], file=sys.stderr, flush=True)
    print(markdown_table(HEADER, rows))
    print(f"\nMedians of {options.rounds} rounds of {options.steps} steps. {conditions()}")


if __name__ == "__main__":
    main()
