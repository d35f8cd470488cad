"""Norms under torch.compile, forward and backward in training, ours over torch's own.

python -m benchmarks.compiled [--threads N]
"""

import torch

from benchmarks.norms import MAPS, TOKENS, Case
from benchmarks.timing import medians, print_report, table

CASES = (
    *(Case("BatchNorm2d", (shape[1],), shape, "float32") for shape in MAPS[:2]),
    *(Case("LayerNorm", (shape[-1],), shape, "float32") for shape in TOKENS[:2]),
    Case("RMSNorm", (TOKENS[0][-1],), TOKENS[0], "float32"),
    Case("GroupNorm", (8, MAPS[1][1]), MAPS[1], "float32"),
)


def report(rounds: int = 9) -> str:
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


if __name__ == "__main__":
    print_report(__doc__, report)
