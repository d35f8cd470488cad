"""The function that layers call: it runs a kernel if one fits, else the formula and its derivative.

Autograd would keep a tensor for each operation of the formula. The function here keeps only the input, the parameters
and the statistics.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from src.norms.formula.axes import Axes
from src.norms.formula.derivative import gradients, gradients_by_autograd, gradients_by_given
from src.norms.formula.normalization import formula
from src.norms.formula.statistics import Statistics
from src.norms.kernels import cpu, gpu, synchronized
from src.norms.kernels.arrangement import is_plain
from src.norms.kernels.cpu import CPUKernel
from src.norms.kernels.gpu import GPUKernel
from src.norms.kernels.setting import setting
from src.norms.kernels.synchronized import SynchronizedKernel


def normalize(
    x: Tensor,
    axes: Axes,
    eps: float,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    given: Statistics | None = None,
) -> tuple[Tensor, Statistics]:
    """`(x - mean) / sqrt(var + eps) * weight + bias`, and the statistics.

    Args:
        x: any floating-point tensor.
        axes: which values of `x` share a mean.
        eps: added to the variance.
        weight, bias: parameters that broadcast as `axes` says; None: left out.
        mask: True where a value counts for the statistics; broadcasts to `x`, with size 1 in the kept dimensions. None:
            all count.
        given: statistics that do not depend on `x`, such as running ones, shaped as the parameters are; None: those of
            `x`.
    """
    given_tensors = () if given is None else (given.mean, given.var)
    if formula_needed(x, weight, bias, *given_tensors):
        return formula(x, axes, eps, weight, bias, mask, given)
    y, *found = _Normalize.apply(x, weight, bias, mask, axes, eps, given)
    return y, Statistics(*found) if given is None else given


def _find_kernel(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, axes: Axes, given: Statistics | None
) -> CPUKernel | GPUKernel | SynchronizedKernel | None:
    """The kernel for these tensors, or None if no kernel fits or the setting excludes kernels."""
    wanted = setting()
    if wanted == "off":
        return None
    backend = gpu if wanted == "triton" or x.is_cuda else cpu
    if axes.process_group is not None:
        if x.dtype != torch.float32:
            return None  # two kernels would round a half-precision gradient twice, first before terms cancel
        return synchronized.kernel_for(backend, x, weight, bias, axes)
    return backend.kernel_for(x, weight, bias, axes, given)


def formula_needed(*tensors: Tensor | None) -> bool:
    """Whether torch needs the operations of the formula instead of a hand-written function.

    torch.compile fuses the formula better than a function of ours. Tracing, vmap and forward-mode differentiation need
    its operations.
    """
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch._C._are_functorch_transforms_active()
        or (
            forward_ad._current_level >= 0
            and any(t is not None and forward_ad.unpack_dual(t).tangent is not None for t in tensors)
        )
    )


class _Normalize(torch.autograd.Function):
    """Normalization that keeps only the input, the parameters and the statistics for the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mask: Tensor | None,
        axes: Axes,
        eps: float,
        given: Statistics | None,
    ) -> tuple[Tensor | int | None, ...]:
        kernel = None if mask is not None else _find_kernel(x, weight, bias, axes, given)
        if kernel is not None:
            y, found = kernel.forward(x, weight, bias, eps, given)
        else:
            recorded = torch._C._len_torch_dispatch_stack()
            y, found = formula(x, axes, eps, weight, bias, mask, given, in_place=not recorded)
        mean, var, num_values, rest = found
        if x.dtype != var.dtype:  # a half type cannot show a difference as small as the rest
            rest = None
        if given and any(ctx.needs_input_grad):  # running statistics may change before the backward pass
            mean, var = None if mean is None else mean.clone(), var.clone()
        count = num_values if isinstance(num_values, Tensor) else None
        ctx.save_for_backward(x, weight, bias, mask, mean, var, rest, count)
        ctx.kernel, ctx.axes, ctx.eps, ctx.given = kernel, axes, eps, given is not None
        if given:
            return (y,)
        ctx.mark_non_differentiable(*(part for part in found if isinstance(part, Tensor)))
        ctx.set_materialize_grads(False)
        return y, *found

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, *no_gradients: None) -> tuple[Tensor | None, ...]:
        if dy is None:
            return (None,) * 7
        x, weight, bias, mask, mean, var, rest, count = ctx.saved_tensors
        given = Statistics(mean, var) if ctx.given else None
        no_memory = torch._C._functorch.is_legacy_batchedtensor(dy) or (ctx.kernel is not None and not is_plain(dy))
        if torch.is_grad_enabled() or formula_needed(dy) or no_memory:
            found = gradients_by_autograd(dy, ctx.needs_input_grad, x, weight, bias, mask, ctx.axes, ctx.eps, given)
            return *found, None, None, None, None
        if dy.stride() != x.stride():
            dy = torch.empty_like(x).copy_(dy)  # so that dx has the memory order of x
        batch = Statistics(mean, var, 0 if count is None else count, rest)
        written: tuple[Tensor | None, ...]
        if ctx.kernel is not None:
            written = ctx.kernel.backward(dy, x, weight, bias, batch, ctx.eps, ctx.needs_input_grad)
        elif given:
            written = gradients_by_given(dy, x, weight, bias, ctx.axes, ctx.eps, given, ctx.needs_input_grad)
        else:
            written = gradients(dy, x, weight, bias, mask, ctx.axes, ctx.eps, batch, ctx.needs_input_grad)
        return *written, None, None, None, None
