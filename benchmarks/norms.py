"""Norms, forward and backward in training, ours over torch's own.

python -m benchmarks.norms [--threads N] [--only BatchNorm2d]
"""

import argparse
import copy
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.machine import conditions
from benchmarks.timing import keep_freed_memory, medians, table
from src import norms
from src.norms.kernels.setting import use_kernels

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
MAPS: tuple[tuple[int, ...], ...] = ((128, 64, 32, 32), (128, 256, 8, 8), (128, 512, 4, 4))
TOKENS: tuple[tuple[int, ...], ...] = ((32, 128, 256), (64, 256, 768), (8, 512, 1024))
SMALL_MAPS, SMALL_TOKENS = (8, 64, 8, 8), (4, 16, 128)


class Case(NamedTuple):
    """A norm of torch's with ours in its place, and an input."""

    name: str
    options: tuple[object, ...]
    shape: tuple[int, ...]
    dtype: str
    layout: str = "contiguous"

    def layers(self) -> tuple[nn.Module, nn.Module]:
        """Ours and torch's."""
        affine = {"affine": True} if self.name.startswith("Instance") else {}
        ours, theirs = (getattr(module, self.name)(*self.options, **affine) for module in (norms, nn))
        return ours.to(DTYPES[self.dtype]), theirs.to(DTYPES[self.dtype])

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


def by_formula(function: Callable[[], object]) -> Callable[[], object]:
    """What no kernel takes part in."""

    def run() -> object:
        with use_kernels(False):
            return function()

    return run


def measured(case: Case, rounds: int = 9) -> list[object]:
    """A row: torch's milliseconds, and the ratios of the kernels and of the plain formula to it."""
    ours, builtin = case.layers()
    seconds = medians(
        {
            "kernels": case.step(ours),
            "formula": by_formula(case.step(copy.deepcopy(ours))),
            "torch": case.step(builtin),
        },
        rounds,
    )
    theirs = f"{seconds['torch'] * 1e3:.3f}"
    ratios = [seconds[name] / seconds["torch"] for name in ("kernels", "formula")]
    return [case.name, "x".join(map(str, case.shape)), case.dtype, case.layout, theirs, *ratios]


def report(only: str = "", rounds: int = 9) -> str:
    """The table of all cases whose name holds `only`, at the number of threads that torch is set to."""
    header = ["norm", "shape", "dtype", "layout", "torch, ms", "kernels / torch", "formula / torch"]
    return table(header, (measured(case, rounds) for case in cases() if only in case.name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="", help="part of a norm's name")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    malloc = keep_freed_memory()
    print(f"{report(options.only, options.rounds)}\n\nWith {malloc}. {conditions()}")


if __name__ == "__main__":
    main()
