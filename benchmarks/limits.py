"""Fail where one of our norms is slower than its limit: `make bench-check`.

The time is CPU time on one thread, so that other programs disturb it little. The limits leave room for this.
"""

import sys

import torch

from benchmarks.norms import CASE, MAPS, SMALL_MAPS, SMALL_TOKENS, TOKENS, Case, seconds
from benchmarks.timing import keep_freed_memory
from src.markdown import markdown_table

# The largest allowed ratios to torch's time: of our kernels, and of our formula alone.
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
        found = seconds(case, rounds=15)
        for side, limit in zip(("kernels", "formula"), limits, strict=True):
            ratio = found[side] / found["torch"]
            slow |= ratio > limit
            rows.append([*case.cells, side, ratio, limit, "ok" if ratio <= limit else "too slow"])
    print(markdown_table([*CASE, "ours by", "ours / torch", "limit", ""], rows))
    sys.exit(int(slow))


if __name__ == "__main__":
    main()
