"""Fail where ours has become slower than it was meant to be: `make bench-check`.

One thread and the processor's time, so that other programs disturb little, and limits with room for the rest.
"""

import sys

import torch

from benchmarks.norms import MAPS, SMALL_MAPS, SMALL_TOKENS, TOKENS, Case, by_formula
from benchmarks.timing import keep_freed_memory, medians, table

# The most that our time, with kernels and without, may be over torch's.
LIMITS = {
    Case("BatchNorm2d", (256,), MAPS[1], "float32"): (1.0, 2.8),
    Case("BatchNorm2d", (256,), MAPS[1], "float32", "channels_last"): (1.4, 3.2),
    Case("BatchNorm2d", (256,), MAPS[1], "bfloat16"): (1.5, 8.5),
    Case("LayerNorm", (256,), TOKENS[0], "float32"): (1.5, 6.0),
    Case("LayerNorm", (256,), TOKENS[0], "bfloat16"): (1.3, 6.0),
    Case("RMSNorm", (256,), TOKENS[0], "float32"): (0.6, 1.2),
    Case("GroupNorm", (8, 256), MAPS[1], "float32"): (1.5, 4.5),
    Case("BatchNorm2d", (64,), SMALL_MAPS, "float32"): (2.5, 5.5),
    Case("LayerNorm", (128,), SMALL_TOKENS, "float32"): (3.0, 6.5),
}


def main() -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    rows, slow = [], False
    for case, limits in LIMITS.items():
        ours, theirs = case.layers()
        step = case.step(ours)
        steps = {"kernels": step, "formula": by_formula(step), "torch": case.step(theirs)}
        seconds = medians(steps)
        for side, limit in zip(("kernels", "formula"), limits, strict=True):
            ratio = seconds[side] / seconds["torch"]
            slow |= ratio > limit
            verdict = "ok" if ratio <= limit else "too slow"
            rows.append(
                [case.name, "x".join(map(str, case.shape)), case.dtype, case.layout, side, ratio, limit, verdict]
            )
    print(table(["norm", "shape", "dtype", "layout", "ours by", "ours / torch", "limit", ""], rows))
    sys.exit(int(slow))


if __name__ == "__main__":
    main()
