"""Time of whole processes: `train.py` to its first training step, and two trainings to their test accuracy.

    python -m benchmarks.processes start [--rounds N]
    python -m benchmarks.processes training [--fashion-root FOLDER]

start: CPU time of `train.py` to its first step, its help and its errors, beside a Python that only imports Lightning
and torchvision. training: `train.py` and the usual template, which train the same network on Fashion-MNIST by the same
recipe; minutes.
"""

import os
import re
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from benchmarks.timing import Ended, conditions, in_turn, options_parser, run_python
from src.markdown import markdown_table

TRAIN = str(Path("train.py").resolve())
BARE = ["-c", "import lightning, torchvision"]
FIT = [TRAIN, "fit", "--config=configs/digits.yaml"]
COMMANDS = {
    "`import lightning, torchvision`": BARE,
    "train.py": [TRAIN],
    "train.py --help": [TRAIN, "--help"],
    "train.py fit --help": [TRAIN, "fit", "--help"],
    "a mistake in an option": [*FIT, "--trainer.max_epoch=3"],
    "a mistake in a value": [*FIT, "--model.norm=BatchNrm"],
    "fit on digits, to the first step": [*FIT, "--trainer.callbacks+=benchmarks.processes.EndAtFirstStep"],
}


class EndAtFirstStep(Callback):
    """Ends the process where the first training step would begin."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        print("first step", flush=True)
        os._exit(0)


def unexpected(command: list[str], ended: Ended) -> RuntimeError:
    return RuntimeError(f"{command} ended with {ended.code}:\n{ended.errors}")


def start_seconds(command: list[str], folder: str) -> Callable[[], float]:
    """A function that runs a command and returns its CPU seconds."""
    place = [f"--trainer.default_root_dir={folder}"] if "fit" in command and "--help" not in command else []

    def run() -> float:
        ended = run_python([*command, *place])
        if not ("first step" in ended.output if "EndAtFirstStep" in command[-1] else ended.code in (0, 2)):
            raise unexpected(command, ended)
        return ended.cpu_seconds

    return run


def start_table(rounds: int) -> str:
    """CPU seconds of each command, and the ratio to the bare imports."""
    with tempfile.TemporaryDirectory() as folder:
        seconds = in_turn({name: start_seconds(command, folder) for name, command in COMMANDS.items()}, rounds)
    bare = seconds[next(iter(COMMANDS))]
    rows = []
    for name, own in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(own, bare, strict=True))
        rows.append([name, f"{statistics.median(own):.1f}", ratio])
    return markdown_table(["process", "CPU seconds", "over the bare imports'"], rows)


def training_table(fashion_root: str) -> str:
    """Seconds, CPU seconds (worker processes included) and test accuracy of `train.py` and of the template."""
    from benchmarks.template import OURS  # not at the top: `train.py` imports this module while its start is timed

    commands = {
        "train.py": [TRAIN, "fit", *OURS, f"--data.root={fashion_root}"],
        "template": ["-m", "benchmarks.template", fashion_root],
    }
    rows = []
    for name, command in commands.items():
        with tempfile.TemporaryDirectory() as folder:
            ended = run_python(command, folder)
        found = re.search(r"^Test accuracy  (\S+)$", ended.output, re.MULTILINE)
        if not found:
            raise unexpected(command, ended)
        rows.append([name, f"{ended.seconds:.0f}", f"{ended.cpu_seconds:.0f}", f"{float(found[1]):.4f}"])
    return markdown_table(["process", "seconds", "CPU seconds", "test accuracy"], rows)


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("of", choices=["start", "training"])
    parser.add_argument("--rounds", type=int, default=3, help="of each start")
    parser.add_argument("--fashion-root", default="/usr/share/datasets/fashion-mnist")
    options = parser.parse_args()
    if options.of == "start":
        print(f"{start_table(options.rounds)}\n\nMedians of {options.rounds} rounds. {conditions()}")
    else:
        print(f"{training_table(options.fashion_root)}\n\n{conditions()}")


if __name__ == "__main__":
    main()
