"""How long `train.py` takes to its first training step, to its help and to an error.

    python -m benchmarks.cold_start

Each is a process of its own, in turns; what is compared is the CPU time of the whole process, beside that of a Python
that imports Lightning and torchvision and ends.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from benchmarks.machine import conditions

BARE = ["-c", "import lightning, torchvision"]
FIT = ["train.py", "fit", "--config=configs/digits.yaml"]
COMMANDS = {
    "train.py": ["train.py"],
    "train.py --help": ["train.py", "--help"],
    "train.py fit --help": ["train.py", "fit", "--help"],
    "a mistake in an option": [*FIT, "--trainer.max_epoch=3"],
    "a mistake in a value": [*FIT, "--model.norm=BatchNrm"],
    "fit on digits, to the first step": [*FIT, "--trainer.callbacks+=benchmarks.cold_start.EndAtFirstStep"],
}


class EndAtFirstStep(Callback):
    """Ends the process where the first training step would begin."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        print("first step", flush=True)
        os._exit(0)


def cpu_seconds(command: list[str], folder: Path) -> float:
    """The CPU time of a Python process, its children included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    place = [f"--trainer.default_root_dir={folder}"] if "fit" in command and "--help" not in command else []
    done = subprocess.run([sys.executable, *command, *place], env=environment, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    expected = "first step" in done.stdout if "EndAtFirstStep" in command[-1] else done.returncode in (0, 2)
    if not expected:
        raise RuntimeError(f"{command} ended with {done.returncode}:\n{done.stderr}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def table(rounds: int) -> str:
    """The Markdown table, medians over the rounds."""
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            for name, command in {"bare": BARE, **COMMANDS}.items():
                seconds.setdefault(name, []).append(cpu_seconds(command, Path(folder)))
    bare = statistics.median(seconds["bare"])
    lines = ["| process | CPU seconds | over the bare imports' |", "|---|---|---|"]
    lines.append(f"| `import lightning, torchvision` | {bare:.1f} | 1 |")
    for name in COMMANDS:
        ratio = statistics.median(own / base for own, base in zip(seconds[name], seconds["bare"], strict=True))
        lines.append(f"| {name} | {statistics.median(seconds[name]):.1f} | {ratio:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(table(options.rounds))
    print(f"\nMedians of {options.rounds} rounds. {conditions()}")


if __name__ == "__main__":
    main()
