"""Layouts of a tensor in memory: a random order of dimensions, with gaps, repetitions and an offset."""

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """Where the values of a tensor lie in memory.

    Args:
        order: the dimensions from the outermost to the innermost; empty: contiguous.
        gaps: for each dimension, the factor by which its stride is larger than it has to be; empty: 1 for all.
        expanded: the dimensions of stride 0.
        offset: values in the storage before the first one.
        overlapping: adjacent windows share values, as in `Tensor.unfold`: all strides are 1.
    """

    order: tuple[int, ...] = ()
    gaps: tuple[int, ...] = ()
    expanded: tuple[int, ...] = ()
    offset: int = 0
    overlapping: bool = False

    def place(self, values: Tensor) -> Tensor:
        """The values in this layout. Memory around and between them holds NaN.

        Along an expanded dimension, and where windows overlap, values are repeated.
        """
        shape, rank = values.shape, values.ndim
        if self.overlapping and values.numel():
            return values.flatten().as_strided(shape, [1] * rank)
        kept = [min(size, 1) if dim in self.expanded else size for dim, size in enumerate(shape)]
        strides, step = [0] * rank, 1
        for dim in reversed(self.order or range(rank)):
            strides[dim] = step * (self.gaps[dim] if self.gaps else 1)
            step = strides[dim] * max(kept[dim], 1)
        storage = values.new_full((self.offset + step + 3,), torch.nan)
        placed = storage.as_strided(kept, strides, self.offset)
        placed.copy_(values[tuple(slice(0, size) for size in kept)])
        return placed.expand(shape)


CONTIGUOUS = Layout()


@st.composite
def layouts(draw: st.DrawFn, rank: int, expands: bool = True) -> Layout:
    """A contiguous layout, one that is channels last or has two dimensions exchanged, or any."""
    every = tuple(range(rank))
    offset = draw(st.sampled_from((0, 0, 1, 3)))
    kind = draw(st.sampled_from(("contiguous", "channels last", "transposed", "sliced", "expanded", "any", "windows")))
    if kind == "channels last" and rank > 2:
        return Layout((0, *every[2:], 1), offset=offset)
    if kind == "transposed" and rank > 1:
        first, second = draw(st.permutations(every))[:2]
        swapped = {first: second, second: first}
        return Layout(tuple(swapped.get(dim, dim) for dim in every), offset=offset)
    gaps = tuple(draw(st.sampled_from((1, 1, 2, 3))) for _ in every)
    if kind == "sliced":
        return Layout(gaps=gaps, offset=offset)
    expanded = tuple(dim for dim in every if draw(st.booleans())) if expands else ()
    if kind == "expanded":
        return Layout(expanded=expanded, offset=offset)
    if kind == "any":
        return Layout(tuple(draw(st.permutations(every))), gaps, expanded, offset)
    return Layout(offset=offset, overlapping=kind == "windows" and expands)
