"""What NormStatistics takes of the time of training with `train.py`.

python -m benchmarks.norm_statistics [--steps N]

Every fourth step is watched, and timed beside the others; the share follows for the default number of steps. Heat maps
are left out: they are drawn at the end, and before that in at most a hundredth of the time.
"""

import argparse
import contextlib
import inspect
import io
import statistics
import sys
import tempfile
import time
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from benchmarks.machine import conditions
from benchmarks.timing import table
from src.callbacks import NormStatistics
from src.cli import TrainCLI

EVERY = 4
CASES = {
    "resnet18 of width 16 on digits": ["--config=configs/digits.yaml", "--model.width=16"],
    "the default Transformer (128 wide, 2 layers)": [
        "--data=Reuters8",
        "--model=TextClassifier",
        "--model.norm=LayerNorm",
    ],
}


class Stopwatch(Callback):
    """The processor's seconds of each step, from the end of the one before, with all callbacks."""

    def __init__(self) -> None:
        self.seconds: dict[int, float] = {}
        self._since = 0.0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.process_time()
        if batch_idx:
            self.seconds[trainer.global_step - 1] = now - self._since
        self._since = now


def run(arguments: list[str], every: int, steps: int, folder: str) -> dict[int, float]:
    """Seconds of each step of `train.py fit`."""
    stopwatch = Stopwatch()

    class WatchedCLI(TrainCLI):
        def instantiate_trainer(self, **kwargs: Any) -> Trainer:
            trainer = super().instantiate_trainer(**kwargs)
            trainer.callbacks.append(stopwatch)  # type: ignore[attr-defined]
            return trainer

    few = ["--trainer.accelerator=cpu", f"--trainer.max_steps={steps}", "--trainer.limit_val_batches=1"]
    few += ["--trainer.limit_test_batches=1", f"--trainer.default_root_dir={folder}"]
    few += ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    before, sys.argv = sys.argv, ["train.py", "fit", *arguments, *few, f"--norm_statistics.every_n_steps={every}"]
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            WatchedCLI()
    finally:
        sys.argv = before
    return stopwatch.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    torch.set_num_threads(1)
    default = inspect.signature(NormStatistics).parameters["every_n_steps"].default
    rows = []
    for name, arguments in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            seconds = run(arguments, EVERY, options.steps, folder)
        watched = statistics.median(value for step, value in seconds.items() if step % EVERY == 0)
        others = statistics.median(value for step, value in seconds.items() if step % EVERY)
        share = (watched - others) / default / others
        rows.append([name, f"{others * 1e3:.1f}", f"{watched * 1e3:.1f}", f"{share:.2%}"])
    header = ["model", "ms a step", "ms a watched step", f"of all time, every {default} steps"]
    print(f"{table(header, rows)}\n\nThe processor's time; medians. {conditions()}")


if __name__ == "__main__":
    main()
