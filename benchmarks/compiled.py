"""Norms under torch.compile, forward and backward in training, ours over torch's own.

python -m benchmarks.compiled [--threads N]
"""

import argparse

import torch

from benchmarks.machine import conditions
from benchmarks.norms import MAPS, TOKENS, Case
from benchmarks.timing import keep_freed_memory, medians, table

CASES = (
    *(Case("BatchNorm2d", (shape[1],), shape, "float32") for shape in MAPS),
    Case("BatchNorm2d", (MAPS[0][1],), MAPS[0], "float32", "channels_last"),
    *(Case("LayerNorm", (shape[-1],), shape, "float32") for shape in TOKENS),
    Case("RMSNorm", (TOKENS[0][-1],), TOKENS[0], "float32"),
    Case("GroupNorm", (8, MAPS[1][1]), MAPS[1], "float32"),
)


def report(rounds: int = 15) -> str:
    rows = []
    for case in CASES:
        torch._dynamo.reset()
        ours, theirs = case.layers()
        ours.compile()
        theirs.compile()
        seconds = medians({"ours": case.step(ours), "torch": case.step(theirs)}, rounds)
        shape, ratio = "x".join(map(str, case.shape)), seconds["ours"] / seconds["torch"]
        rows.append([case.name, shape, case.layout, f"{seconds['torch'] * 1e3:.3f}", ratio])
    return table(["norm", "shape", "layout", "torch compiled, ms", "ours compiled / torch compiled"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    malloc = keep_freed_memory()
    print(f"{report()}\n\nWith {malloc}. {conditions()}")


if __name__ == "__main__":
    main()
