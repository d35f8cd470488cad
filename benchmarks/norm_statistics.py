"""The share of the training time of `train.py` that NormStatistics takes.

python -m benchmarks.norm_statistics [--steps N]

NormStatistics measures every fourth step of a run. The median of these steps is compared with the median of the other
steps. The share is for the default interval. Heat maps are left out: they are drawn at the end of a run, and before the
end for at most 1% of the time.
"""

import inspect
import statistics
import tempfile

import torch

from benchmarks.timing import conditions, options_parser
from benchmarks.training import run_ours
from src.callbacks import NormStatistics
from src.markdown import markdown_table

EVERY = 4
CASES = {
    "resnet18 of width 16 on digits": ["--config=configs/digits.yaml", "--model.width=16"],
    "the default Transformer (128 wide, 2 layers)": [
        "--data=Reuters8",
        "--model=TextClassifier",
        "--model.norm=LayerNorm",
    ],
}
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]


def row(name: str, steps: int, default: int) -> list[object]:
    with tempfile.TemporaryDirectory() as folder:
        clock, _ = run_ours([*CASES[name], *QUIET, f"--norm_statistics.every_n_steps={EVERY}"], folder, steps)
    seconds = {number: lap.cpu for number, lap in enumerate(clock.laps) if lap.step}  # a first step follows validation
    watched = statistics.median(value for number, value in seconds.items() if number % EVERY == 0)
    others = statistics.median(value for number, value in seconds.items() if number % EVERY)
    return [name, f"{others * 1e3:.1f}", f"{watched * 1e3:.1f}", f"{(watched - others) / default / others:.2%}"]


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--steps", type=int, default=60)
    steps = parser.parse_args().steps
    torch.set_num_threads(1)
    default = inspect.signature(NormStatistics).parameters["every_n_steps"].default
    header = ["model", "ms a step", "ms a watched step", f"of all time, every {default} steps"]
    rows = [row(name, steps, default) for name in CASES]
    print(f"{markdown_table(header, rows)}\n\nThe processor's time; medians. {conditions()}")


if __name__ == "__main__":
    main()
