"""Time and memory of a norm's forward and backward pass in training, our layer beside torch's own.

python -m benchmarks.norms [times] [--threads N] [--only BatchNorm2d]
python -m benchmarks.norms compiled     under torch.compile
python -m benchmarks.norms growth       nanoseconds per value, against the size of the input
python -m benchmarks.norms memory       bytes kept for the backward pass, and the peak of a step
"""

import copy
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.profiler import ProfilerActivity, profile

from benchmarks.timing import conditions, keep_freed_memory, medians, options_parser
from src import norms
from src.markdown import markdown_table
from src.norms.kernels.setting import use_kernels

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
MAPS: tuple[tuple[int, ...], ...] = ((128, 64, 32, 32), (128, 256, 8, 8), (128, 512, 4, 4))
TOKENS: tuple[tuple[int, ...], ...] = ((32, 128, 256), (64, 256, 768), (8, 512, 1024))
SMALL_MAPS, SMALL_TOKENS = (8, 64, 8, 8), (4, 16, 128)


class Case(NamedTuple):
    """A norm that torch has too, and its input."""

    name: str
    options: tuple[object, ...]
    shape: tuple[int, ...]
    dtype: str
    layout: str = "contiguous"

    def layers(self) -> tuple[nn.Module, nn.Module]:
        """Our layer and torch's."""
        affine = {"affine": True} if self.name.startswith("Instance") else {}
        ours, theirs = (getattr(module, self.name)(*self.options, **affine) for module in (norms, nn))
        return ours.to(DTYPES[self.dtype]), theirs.to(DTYPES[self.dtype])

    @property
    def cells(self) -> list[object]:
        """The first cells of its row in a table."""
        return [self.name, "x".join(map(str, self.shape)), self.dtype, self.layout]

    def tensor(self) -> Tensor:
        x = torch.randn(self.shape).to(DTYPES[self.dtype])
        if self.layout == "channels_last":
            x = x.contiguous(memory_format=torch.channels_last if x.ndim == 4 else torch.channels_last_3d)
        return x

    def step(self, layer: nn.Module) -> Callable[[], object]:
        """A forward and a backward pass, with the gradients of the input and of all parameters."""
        x, dy = self.tensor().requires_grad_(), self.tensor()
        inputs = [x, *layer.parameters()]
        return lambda: torch.autograd.grad(layer(x), inputs, dy)


COMPILED = (
    *(Case("BatchNorm2d", (shape[1],), shape, "float32") for shape in MAPS[:2]),
    *(Case("LayerNorm", (shape[-1],), shape, "float32") for shape in TOKENS[:2]),
    Case("RMSNorm", (TOKENS[0][-1],), TOKENS[0], "float32"),
    Case("GroupNorm", (8, MAPS[1][1]), MAPS[1], "float32"),
)
GROWTH = tuple(
    Case(name, options, (batch, *sample), "float32")
    for name, options, sample in (
        ("BatchNorm2d", (64,), (64, 16, 16)),
        ("LayerNorm", (256,), (64, 256)),
        ("GroupNorm", (8, 64), (64, 16, 16)),
    )
    for batch in (2, 8, 32, 128, 512)
)
MEMORY = (
    Case("BatchNorm2d", (MAPS[0][1],), MAPS[0], "float32"),
    Case("BatchNorm2d", (MAPS[0][1],), MAPS[0], "bfloat16", "channels_last"),
    Case("LayerNorm", (TOKENS[1][-1],), TOKENS[1], "float32"),
    Case("LayerNorm", (TOKENS[1][-1],), TOKENS[1], "bfloat16"),
    Case("RMSNorm", (TOKENS[1][-1],), TOKENS[1], "float32"),
    Case("GroupNorm", (8, MAPS[0][1]), MAPS[0], "float32"),
    Case("InstanceNorm2d", (MAPS[0][1],), MAPS[0], "float32"),
)


def cases() -> Iterator[Case]:
    """Every norm at usual sizes, then at small ones."""
    for maps, tokens in ((MAPS, TOKENS), ((SMALL_MAPS,), (SMALL_TOKENS,))):
        for dtype in DTYPES:
            for shape in maps:
                for layout in ("contiguous", "channels_last"):
                    yield Case("BatchNorm2d", (shape[1],), shape, dtype, layout)
            for shape in tokens:
                yield Case("LayerNorm", (shape[-1],), shape, dtype)
                yield Case("RMSNorm", (shape[-1],), shape, dtype)
            for shape in maps[:1]:
                positions = (shape[2] * shape[3] // 4, 2, 2)
                yield Case("BatchNorm1d", (shape[1],), (*shape[:2], shape[2] * shape[3]), dtype)
                yield Case("BatchNorm3d", (shape[1],), (*shape[:2], *positions), dtype)
                for layout in ("contiguous", "channels_last"):
                    yield Case("GroupNorm", (8, shape[1]), shape, dtype, layout)
                yield Case("InstanceNorm2d", (shape[1],), shape, dtype)


def seconds(case: Case, rounds: int) -> dict[str, float]:
    """Seconds of a step by our kernels, by our formula alone, and by torch's layer."""
    ours, theirs = case.layers()
    step = case.step(copy.deepcopy(ours))

    def formula() -> object:
        with use_kernels(False):
            return step()

    return medians({"kernels": case.step(ours), "formula": formula, "torch": case.step(theirs)}, rounds)


def saved_bytes(layer: nn.Module, x: Tensor) -> int:
    """The bytes that a forward pass keeps for the backward pass, each storage once, without parameters."""
    storages: dict[int, int] = {}
    parameters = {parameter.data_ptr() for parameter in layer.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in parameters:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        y = layer(x)
    del y
    return sum(storages.values())


def peak_bytes(step: Callable[[], object]) -> int:
    """The most bytes that a step holds at once, beyond those that were allocated before it."""
    step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as found:
        step()
    held = most = 0
    for event in sorted(found.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


def times_row(case: Case, rounds: int) -> list[object]:
    """Torch's milliseconds, and the ratios of our kernels and of our formula to torch's time."""
    found = seconds(case, rounds)
    ratios = [found[side] / found["torch"] for side in ("kernels", "formula")]
    return [*case.cells, f"{found['torch'] * 1e3:.3f}", *ratios]


def compiled_row(case: Case, rounds: int) -> list[object]:
    torch._dynamo.reset()
    ours, theirs = case.layers()
    ours.compile()
    theirs.compile()
    found = medians({"ours": case.step(ours), "torch": case.step(theirs)}, rounds)
    name, shape, _, layout = case.cells
    return [name, shape, layout, f"{found['torch'] * 1e3:.3f}", found["ours"] / found["torch"]]


def growth_row(case: Case, rounds: int) -> list[object]:
    ours, theirs = case.layers()
    found = medians({"ours": case.step(ours), "torch": case.step(theirs)}, rounds)
    values = case.tensor().numel()
    per_value = [found[side] / values * 1e9 for side in ("ours", "torch")]
    return [*case.cells[:2], values, *per_value, per_value[0] / per_value[1]]


def memory_row(case: Case, rounds: int) -> list[object]:
    ours, theirs = case.layers()
    x = case.tensor().requires_grad_()
    kept = saved_bytes(ours, x) / saved_bytes(theirs, x)
    peak = peak_bytes(case.step(ours)) / peak_bytes(case.step(theirs))
    return [*case.cells, kept, peak]


class Table(NamedTuple):
    """A table: its cases, and the function that measures a row."""

    header: list[str]
    cases: tuple[Case, ...]
    row: Callable[[Case, int], list[object]]
    rounds: int = 9


CASE = ["norm", "shape", "dtype", "layout"]
TABLES = {
    "times": Table([*CASE, "torch, ms", "kernels / torch", "formula / torch"], tuple(cases()), times_row),
    "compiled": Table(
        ["norm", "shape", "layout", "torch compiled, ms", "ours compiled / torch compiled"], COMPILED, compiled_row
    ),
    "growth": Table(
        ["norm", "shape", "values", "ours, ns/value", "torch, ns/value", "ours / torch"], GROWTH, growth_row, rounds=7
    ),
    "memory": Table([*CASE, "kept, ours / torch", "peak, ours / torch"], MEMORY, memory_row),
}


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("table", choices=TABLES, nargs="?", default="times")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="", help="part of a norm's name")
    parser.add_argument("--rounds", type=int, help="timed rounds; the default depends on the table")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    malloc = keep_freed_memory()
    table = TABLES[options.table]
    rows = [table.row(case, options.rounds or table.rounds) for case in table.cases if options.only in case.name]
    print(f"{markdown_table(table.header, rows)}\n\nWith {malloc}. {conditions()}")


if __name__ == "__main__":
    main()
