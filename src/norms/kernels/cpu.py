"""Kernels for CPU: which of them fits an input, and the call."""

import re
from collections.abc import Callable
from functools import lru_cache
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from src.norms.kernels.build import load

DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


class Arrangement(NamedTuple):
    """How the values of one mean lie in memory: the kernel that reads them so, and its sizes."""

    kernel: str
    sizes: tuple[int, ...]
    statistics_shape: tuple[int, ...]


class Kernel(NamedTuple):
    """A kernel with its sizes; all tensors that it takes are as it was chosen for."""

    forward_call: Callable[..., None]
    backward_call: Callable[..., None]
    arrangement: Arrangement
    about_zero: bool

    def _tail(self, eps: float, given: bool) -> tuple[int | float | bool, ...]:
        name, sizes, _ = self.arrangement
        tail = (*sizes, eps, self.about_zero if name == "runs" else given)
        return tail if name == "channels" else (*tail, torch.get_num_threads())

    def forward(
        self,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        given: tuple[Tensor | None, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """The output, the mean (None about zero) and the biased variance; `given` takes the place of these two."""
        y = torch.empty_like(x)
        if given is None:
            var = x.new_empty(self.arrangement.statistics_shape, dtype=torch.float32)
            mean = None if self.about_zero else torch.empty_like(var)
        else:
            mean, var = _as_float(given[0]), given[1].float()
        tensors = (x, y, _as_float(weight), _as_float(bias), mean, var)
        self.forward_call(*map(_address, tensors), *self._tail(eps, given is not None))
        return y, mean, var

    def backward(
        self,
        dy: Tensor,
        x: Tensor,
        weight: Tensor | None,
        mean: Tensor | None,
        var: Tensor,
        eps: float,
        given: bool,
        needs_x: bool,
    ) -> tuple[Tensor | None, Tensor, Tensor]:
        """The gradients of the input, and flat ones of weight and bias in float32."""
        sizes = self.arrangement.sizes
        num_parameters = sizes[1] * sizes[3] if len(sizes) == 4 else sizes[1]
        dx = torch.empty_like(x) if needs_x else None
        dweight, dbias = torch.empty(2, num_parameters, dtype=torch.float32).unbind()
        tensors = (dy, x, dx, _as_float(weight), _as_float(mean), _as_float(var), dweight, dbias)
        self.backward_call(*map(_address, tensors), *self._tail(eps, given))
        return dx, dweight, dbias


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _as_float(parameter: Tensor | None) -> Tensor | None:
    return None if parameter is None else parameter.float()


def kernel_for(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, dims: tuple[int, ...], about_zero: bool, given: bool = False
) -> Kernel | None:
    """The kernel for the mean of `x` over `dims`, or None where the formula has to serve."""
    dtype = DTYPES.get(x.dtype)
    if dtype is None or x.device.type != "cpu" or type(x) not in (Tensor, torch.nn.Parameter):
        return None
    if torch._C._len_torch_dispatch_stack():  # who records operations would not see that anything is computed
        return None
    parameter = bias if weight is None else weight
    shape = None if parameter is None else parameter.shape
    arrangement = arrange(x.shape, x.stride(), dims, shape, given)
    if arrangement is None or (about_zero and arrangement.kernel != "runs"):
        return None
    for tensor in (weight, bias):
        if tensor is not None and not (tensor.is_contiguous() and tensor.shape == shape):
            return None
    library = load()
    if library is None:
        return None
    forward, backward = (getattr(library, f"{arrangement.kernel}_{way}_{dtype}") for way in ("forward", "backward"))
    return Kernel(forward, backward, arrangement, about_zero)


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
