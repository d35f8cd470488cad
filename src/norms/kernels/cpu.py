"""Kernels for CPU: which of them fits an input, and the call."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from src.norms.kernels.arrangement import Arrangement, arrange
from src.norms.kernels.build import load

DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


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
