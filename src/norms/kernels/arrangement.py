"""How the values of one mean are arranged in memory, which decides the kernel that can read them."""

import re
from functools import lru_cache
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from src.norms.formula.axes import Axes
from src.norms.formula.statistics import Statistics

PLAIN = (Tensor, torch.nn.Parameter)  # other subclasses of Tensor may hold anything in memory


class Arrangement(NamedTuple):
    """An arrangement of the values of one mean in memory, with its sizes.

    runs (R, K, S, G): all K * S adjacent values of each of R rows; weight and bias are per (row % G, k)
    channels (N, C, S): a channel is N runs of S values, C * S apart
    columns (M, C): a channel is a column
    groups (N, S, G, K): K columns of each of N matrices (S, G * K) share a mean
    """

    kernel: str
    sizes: tuple[int, ...]
    statistics_shape: tuple[int, ...]


def arrange(
    shape: tuple[int, ...],
    stride: tuple[int, ...],
    dims: tuple[int, ...],
    parameter_shape: tuple[int, ...] | None,
    given: bool = False,
) -> Arrangement | None:
    """The arrangement of the values of each mean over `dims`, or None if no kernel can read it.

    Args:
        shape, stride: of the input.
        dims: the dimensions that are reduced.
        parameter_shape: of weight and bias, which broadcast to `shape`; None: there are neither.
        given: the statistics are given.
    """
    rank = len(shape)
    reduced = {dim % rank for dim in dims}
    own = (*[1] * (rank - len(parameter_shape or ())), *(parameter_shape or ()))
    if not prod(shape) or not dims:
        return None
    if len(own) > rank or any(size not in (1, shape[dim]) for dim, size in enumerate(own)):
        return None
    # A dimension of size 1 has a stride, but no place in memory.
    order = sorted((dim for dim in range(rank) if shape[dim] > 1), key=lambda dim: -stride[dim])
    if not _is_dense(shape, stride, order):
        return None
    # Kernels read parameters and write statistics one after the other, in the order in which they read the input.
    along_parameters = [dim for dim in order if own[dim] > 1]
    along_statistics = [dim for dim in order if dim not in reduced]
    if along_parameters != sorted(along_parameters) or along_statistics != sorted(along_statistics):
        return None

    # A letter for each dimension, in the order of memory, outermost first. Without parameters along the dimension: kept
    # (n) or reduced (s). With a parameter for each index: kept (g) or reduced (k). A kernel treats adjacent dimensions
    # of one letter as one dimension.
    letters = {(False, False): "n", (True, False): "s", (False, True): "g", (True, True): "k"}
    places = [(letters[dim in reduced, own[dim] > 1], shape[dim]) for dim in order]
    pattern = "".join(letter for letter, _ in places)
    statistics_shape = tuple(1 if dim in reduced else size for dim, size in enumerate(shape))

    def size(letters: str, where: slice = slice(None)) -> int:
        return prod(size for letter, size in places[where] if letter in letters)

    if not given and re.fullmatch("n*g*k*s*", pattern):
        return Arrangement("runs", (size("ng"), size("k"), size("s"), size("g")), statistics_shape)
    # These kernels read a parameter for each channel.
    if re.fullmatch("s*ns*" if parameter_shape is None else "s*gs*", pattern):
        channel = re.search("[ng]", pattern).start()  # type: ignore[union-attr]
        outer, inner = size("s", slice(channel)), size("s", slice(channel, None))
        if inner == 1 and outer > 1:
            return Arrangement("columns", (outer, size("ng")), statistics_shape)
        return Arrangement("channels", (outer, size("ng"), inner), statistics_shape)
    found = re.fullmatch("(n*)(s+)(n*)(s*)" if parameter_shape is None else "(n*)(s+)(g*)(k*)", pattern)
    if found and not given:
        sizes = tuple(size("ngks", slice(*found.span(part))) for part in (1, 2, 3, 4))
        return Arrangement("groups", sizes, statistics_shape)
    return None


def arrangement_of(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, axes: Axes, given: Statistics | None
) -> Arrangement | None:
    """`arrange` for a tensor and its parameters. None if no kernel can read them, or if operations are recorded."""
    if torch._C._len_torch_dispatch_stack():  # code that records operations cannot record a kernel
        return None
    parameters = [t for t in (weight, bias, *(given[:2] if given else ())) if t is not None]
    if not all(is_plain(tensor) and tensor.device == x.device for tensor in (x, *parameters)):
        return None
    if not all(parameter.is_contiguous() for parameter in parameters):
        return None
    shapes = tuple(parameter.shape for parameter in parameters)
    return _arrange_axes(x.shape, x.stride(), axes, shapes, given is not None)


def is_plain(tensor: Tensor) -> bool:
    """Whether the tensor's values are in its memory as they are."""
    return type(tensor) in PLAIN and not tensor.is_neg()


@lru_cache(maxsize=4096)
def _arrange_axes(
    shape: tuple[int, ...], stride: tuple[int, ...], axes: Axes, parameters: tuple[tuple[int, ...], ...], given: bool
) -> Arrangement | None:
    """Cached, since the search takes longer than the arithmetic on a small input."""
    if len(set(parameters)) > 1:
        return None
    x = torch.empty_strided(shape, stride, device="meta")
    x = x if axes.shape is None else x.view(axes.shape)
    parameter_shape = axes.spread(torch.empty(parameters[0], device="meta")).shape if parameters else None
    arrangement = arrange(x.shape, x.stride(), axes.dims, parameter_shape, given)
    return None if axes.about_zero and arrangement and arrangement.kernel != "runs" else arrangement


def _is_dense(shape: tuple[int, ...], stride: tuple[int, ...], order: list[int]) -> bool:
    """Whether the dimensions in this order are nested in memory without gaps."""
    step = 1
    for dim in reversed(order):
        if stride[dim] != step:
            return False
        step *= shape[dim]
    return True
