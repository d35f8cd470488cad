"""How a norm's time grows with the size of its input: forward and backward, in nanoseconds per value.

python -m benchmarks.growth [--threads N]
"""

from benchmarks.norms import Case
from benchmarks.timing import medians, print_report, table

BATCHES = (2, 8, 32, 128, 512)
SHAPES = {"BatchNorm2d": ((64,), (64, 16, 16)), "LayerNorm": ((256,), (64, 256)), "GroupNorm": ((8, 64), (64, 16, 16))}


def report(rounds: int = 7) -> str:
    rows = []
    for name, (options, sample) in SHAPES.items():
        for batch in BATCHES:
            case = Case(name, options, (batch, *sample), "float32")
            ours, theirs = case.layers()
            seconds = medians({"ours": case.step(ours), "torch": case.step(theirs)}, rounds)
            values = case.tensor().numel()
            per_value = [seconds[side] / values * 1e9 for side in ("ours", "torch")]
            rows.append([name, "x".join(map(str, case.shape)), values, *per_value, per_value[0] / per_value[1]])
    return table(["norm", "shape", "values", "ours, ns/value", "torch, ns/value", "ours / torch"], rows)


if __name__ == "__main__":
    print_report(__doc__, report)
