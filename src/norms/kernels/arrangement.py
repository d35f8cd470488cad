"""How the values of one mean lie in memory, which decides on the kernel that reads them."""

import re
from functools import lru_cache
from math import prod
from typing import NamedTuple


class Arrangement(NamedTuple):
    """A way in which the values of one mean lie in memory, with its sizes.

    runs (R, K, S, G): all K * S values of each of R rows, one after the other; weight and bias are per (row % G, k)
    channels (N, C, S): a channel is N runs of S values, C * S apart
    columns (M, C): a channel is a column
    """

    kernel: str
    sizes: tuple[int, ...]
    statistics_shape: tuple[int, ...]


@lru_cache(maxsize=4096)
def arrange(
    shape: tuple[int, ...],
    stride: tuple[int, ...],
    dims: tuple[int, ...],
    parameter_shape: tuple[int, ...] | None,
    given: bool = False,
) -> Arrangement | None:
    """How the values of each mean over `dims` lie in memory, or None if in no way that a kernel reads.

    Args:
        shape, stride: of the input.
        dims: the dimensions that are reduced.
        parameter_shape: of weight and bias, which broadcast to `shape`; None: there are neither.
        given: the statistics are given.
    """
    rank = len(shape)
    if not prod(shape) or not dims:
        return None
    reduced = {dim % rank for dim in dims}
    inside_out = (0, *range(2, rank), 1)
    order = next((o for o in (tuple(range(rank)), inside_out) if _is_dense(shape, stride, o)), None)
    own = (*[1] * (rank - len(parameter_shape or ())), *(parameter_shape or ()))
    if order is None or any(size not in (1, shape[dim]) for dim, size in enumerate(own)):
        return None

    # Each dimension as a letter, in the order of memory, outermost first: kept (n) or reduced (s), and where there is
    # a parameter for each place, kept (g) or reduced (k). What one letter stands for is one dimension to a kernel.
    letters = {(False, False): "n", (True, False): "s", (False, True): "g", (True, True): "k"}
    places = [(letters[dim in reduced, own[dim] > 1], shape[dim]) for dim in order if shape[dim] > 1]
    pattern = "".join(letter for letter, _ in places)
    statistics_shape = tuple(1 if dim in reduced else size for dim, size in enumerate(shape))

    def size(letters: str, where: slice = slice(None)) -> int:
        return prod(size for letter, size in places[where] if letter in letters)

    if not given and re.fullmatch("n*g*k*s*", pattern):
        return Arrangement("runs", (size("ng"), size("k"), size("s"), size("g")), statistics_shape)
    if re.fullmatch("s*[ng]s*", pattern):
        channel = re.search("[ng]", pattern).start()  # type: ignore[union-attr]
        outer, inner = size("s", slice(channel)), size("s", slice(channel, None))
        if inner == 1 and outer > 1:
            return Arrangement("columns", (outer, size("ng")), statistics_shape)
        return Arrangement("channels", (outer, size("ng"), inner), statistics_shape)
    return None


def _is_dense(shape: tuple[int, ...], stride: tuple[int, ...], order: tuple[int, ...]) -> bool:
    """Whether the dimensions, taken in this order, lie one inside the other without gaps."""
    step = 1
    for dim in reversed(order):
        if shape[dim] > 1 and stride[dim] != step:
            return False
        step *= shape[dim]
    return True
