"""The formula of `functional.py` as the layers call it: with a backward pass of its own, and kernels where they fit.

Autograd would keep each step of the formula; the derivative written out here keeps the input and the statistics.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from src.norms.derivative import gradients, gradients_by_given
from src.norms.functional import (
    Axes,
    Statistics,
    computing_dtype,
    deviations,
    follow_one,
    is_recomputing,
    normalize,
)
from src.norms.kernels import cpu, gpu, synchronized
from src.norms.kernels.setting import setting
from src.norms.processes import merge


def standardize(
    x: Tensor,
    axes: Axes,
    eps: float,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
) -> tuple[Tensor, Statistics]:
    """`x` normalized by its own statistics, which are returned, too.

    Args:
        x: any floating-point tensor.
        axes: which of its values share a mean.
        eps: what is added to the variance.
        weight, bias: what the normalized values are multiplied by and added to.
        mask: as in `mean_over`.
    """
    if _formula_needed(x, weight, bias):
        return _formula(x, axes, eps, weight, bias, mask)
    y, *parts = _Normalize.apply(x, weight, bias, mask, axes, eps, None)
    return y, Statistics(*parts)


def normalize_by(
    given: Statistics, x: Tensor, axes: Axes, eps: float, weight: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """`x` normalized by statistics that do not depend on it, such as running ones, shaped as parameters are."""
    if _formula_needed(x, weight, bias, given.mean, given.var):
        return _formula(x, axes, eps, weight, bias, given=given)[0]
    y: Tensor = _Normalize.apply(x, weight, bias, None, axes, eps, given)[0]
    return y


def follow(running_mean: Tensor | None, running_var: Tensor | None, batch: Statistics, factor: float | Tensor) -> None:
    """Move running statistics, vectors, towards a batch's, in place: `running += factor * (batch - running)`."""
    by_kernel = not _formula_needed() and setting() == "auto" and not is_recomputing()
    if by_kernel and cpu.follow(running_mean, running_var, batch, factor):
        return
    mean = batch.whole_mean()
    assert mean is not None
    if running_mean is not None:
        follow_one(running_mean, mean.flatten(), factor)
    if running_var is not None:
        follow_one(running_var, batch.unbiased_var().flatten(), factor)


def _find_kernel(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, axes: Axes, given: Statistics | None
) -> cpu.Kernel | gpu.Kernel | synchronized.Kernel | None:
    """The kernel that computes the formula, or None where there is none or it is not wanted."""
    wanted = setting()
    if wanted == "off":
        return None
    backend = gpu if wanted == "triton" or x.is_cuda else cpu
    if axes.group is not None:
        if x.dtype != torch.float32:
            return None  # two kernels would round a half type's gradient twice, the first time where it cancels
        return synchronized.kernel_for(backend, x, axes)
    return backend.kernel_for(x, weight, bias, axes, given)


def _formula_needed(*tensors: Tensor | None) -> bool:
    """Whether who differentiates or transforms a norm has to see its formula instead of a hand-written function.

    torch.compile fuses the formula better than a function of ours; tracing, vmap and forward-mode differentiation
    need its steps.
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


def _formula(
    x: Tensor,
    axes: Axes,
    eps: float,
    weight: Tensor | None,
    bias: Tensor | None,
    mask: Tensor | None = None,
    given: Statistics | None = None,
    in_place: bool = False,
) -> tuple[Tensor, Statistics]:
    """The output and the statistics; `in_place` spares memory where nobody records the steps."""
    seen = x if axes.shape is None else x.view(axes.shape)
    if given is None:
        deviation, found = deviations(seen, axes.dims, mask, axes.about_zero)
        rest = found.rest
        if axes.group is not None:
            found, rest = merge(found, axes.group)
    else:
        found, rest = given, None
        deviation = seen.to(computing_dtype(x.dtype))
        if given.mean is not None:
            deviation = deviation - axes.spread(given.mean)
    var = found.var if given is None else axes.spread(given.var).to(deviation.dtype)
    out = deviation if in_place and not axes.about_zero else None
    y = normalize(deviation, axes.dims, var, eps, axes.spread(weight), axes.spread(bias), rest, out).to(x.dtype)
    if axes.shape is not None:  # torch's output is no view, but a trace would take the shape for a constant
        y = y.view_as(x) if torch.jit.is_tracing() else torch.ops.aten._unsafe_view(y, x.shape)
    return y, found


class _Normalize(torch.autograd.Function):
    """Normalization that keeps the input, the parameters and the statistics for the backward pass."""

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
            y, found = _formula(x, axes, eps, weight, bias, mask, given, in_place=not recorded)
        mean, var, num_values, rest = found
        if x.dtype != var.dtype:  # a half type holds too few digits for the rest to show
            rest = None
        if given and any(ctx.needs_input_grad):  # running statistics may have moved on when the backward pass comes
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
        if torch.is_grad_enabled() or _formula_needed(dy) or torch._C._functorch.is_legacy_batchedtensor(dy):
            found = _through_formula(dy, ctx.needs_input_grad, x, weight, bias, mask, ctx.axes, ctx.eps, given)
            return *found, None, None, None, None
        if dy.stride() != x.stride():
            dy = torch.empty_like(x).copy_(dy)  # so that dx lies as x does
        batch = Statistics(mean, var, 0 if count is None else count, rest)
        written: tuple[Tensor | None, ...]
        if ctx.kernel is not None:
            written = ctx.kernel.backward(dy, x, weight, bias, batch, ctx.eps, ctx.needs_input_grad)
        elif given:
            written = gradients_by_given(dy, x, weight, bias, ctx.axes, ctx.eps, given, ctx.needs_input_grad)
        else:
            written = gradients(dy, x, weight, bias, mask, ctx.axes, ctx.eps, batch, ctx.needs_input_grad)
        return *written, None, None, None, None


def _through_formula(
    dy: Tensor,
    needed: tuple[bool, ...],
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mask: Tensor | None,
    axes: Axes,
    eps: float,
    given: Statistics | None,
) -> list[Tensor | None]:
    """The gradients by autograd through the formula, for who differentiates or transforms them again."""
    with torch.enable_grad():
        # Through aliases, whose gradients call none of the hooks that were put on the tensors themselves.
        x, weight, bias = (None if t is None else t.view_as(t) for t in (x, weight, bias))  # type: ignore[assignment]
        y, _ = _formula(x, axes, eps, weight, bias, mask, given)
    wanted = [tensor for tensor, is_needed in zip((x, weight, bias), needed, strict=False) if is_needed]
    found = iter(torch.autograd.grad(y, wanted, dy, create_graph=torch.is_grad_enabled()))  # type: ignore[arg-type]
    return [next(found) if is_needed else None for is_needed in needed[:3]]
