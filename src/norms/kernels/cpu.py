"""Kernels for CPU: choose the one that fits an input, and call it."""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from src.norms.formula.axes import Axes
from src.norms.formula.statistics import Statistics
from src.norms.kernels.arrangement import PLAIN, Arrangement, arrangement_of
from src.norms.kernels.build import load

DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


class CPUKernel(NamedTuple):
    """A kernel with its sizes. It takes only tensors like the ones for which it was chosen."""

    forward_call: Callable[..., None]
    backward_call: Callable[..., None]
    arrangement: Arrangement
    about_zero: bool
    given: bool

    def forward(
        self, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, given: Statistics | None
    ) -> tuple[Tensor, Statistics]:
        """The output, and the statistics: the given ones, or the mean (None about zero) and the biased variance."""
        _, sizes, shape = self.arrangement
        y = torch.empty_like(x)
        if given is None:
            var = torch.empty(shape)
            mean = None if self.about_zero else torch.empty(shape)
            found = Statistics(mean, var, x.numel() // var.numel())
        else:
            found = given
            mean, var = _as_float(given.mean), given.var.float()
        # The tuple keeps each tensor alive until the kernel has read it.
        tensors = (x, y, _as_float(weight), _as_float(bias), mean, var)
        self.forward_call(*map(_address, tensors), *sizes, eps, self.about_zero or self.given, torch.get_num_threads())
        return y, found

    def backward(
        self,
        dy: Tensor,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        found: Statistics,
        eps: float,
        needed: tuple[bool, ...],
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The gradients of input, weight and bias that are `needed`."""
        dx = torch.empty_like(x) if needed[0] else None
        dweight, dbias = (_gradient_of(parameter) for parameter in (weight, bias))
        tensors = (dy, x, dx, _as_float(weight), _as_float(found.mean), found.var.float(), dweight, dbias)
        self.backward_call(
            *map(_address, tensors),
            *self.arrangement.sizes,
            eps,
            self.about_zero or self.given,
            torch.get_num_threads(),
        )
        if weight is not None and dweight is not None:
            dweight = dweight.to(weight.dtype) if needed[1] else None
        if bias is not None and dbias is not None:
            dbias = dbias.to(bias.dtype) if needed[2] else None
        return dx, dweight, dbias


def _gradient_of(parameter: Tensor | None) -> Tensor | None:
    return None if parameter is None else torch.empty_like(parameter, dtype=torch.float32)


def _as_float(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.float()


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def kernel_for(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, axes: Axes, given: Statistics | None
) -> CPUKernel | None:
    """The kernel for the statistics of `x` over `axes`, or None if no kernel fits and the formula is needed."""
    if x.dtype not in DTYPES or not x.is_cpu:
        return None
    arrangement = arrangement_of(x, weight, bias, axes, given)
    calls = None if arrangement is None else _calls(arrangement.kernel, x.dtype)
    if arrangement is None or calls is None:
        return None
    return CPUKernel(*calls, arrangement, axes.about_zero, given is not None)


@cache
def _calls(kernel: str, dtype: torch.dtype) -> tuple[Callable[..., None], Callable[..., None]] | None:
    library = load()
    if library is None:
        return None
    forward, backward = (getattr(library, f"{kernel}_{way}_{DTYPES[dtype]}") for way in ("forward", "backward"))
    return forward, backward


def follow(running_mean: Tensor | None, running_var: Tensor | None, batch: Statistics, factor: float | Tensor) -> bool:
    """Do `running += factor * (batch - running)` for both running statistics; False if the kernel does not fit."""
    mean, var, count = batch.whole_mean(), batch.var, batch.num_values
    if running_mean is None or running_var is None or mean is None or isinstance(factor, Tensor | int):
        return False
    tensors = (running_mean, running_var, mean, var)
    if (
        isinstance(count, Tensor)
        or not all(type(t) in PLAIN and t.is_cpu and t.dtype == torch.float32 and t.is_contiguous() for t in tensors)
        or torch._C._len_torch_dispatch_stack()
        or (library := load()) is None
    ):
        return False
    library.follow(*map(_address, tensors), var.numel(), factor, count / (count - 1))
    torch.autograd.graph.increment_version((running_mean, running_var))
    return True
