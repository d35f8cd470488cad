"""The formula of `functional.py` as the layers call it: with a backward pass of its own, and kernels where they fit.

Autograd would keep each step of the formula; the derivative written out here keeps the input and the statistics.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from src.norms.functional import Statistics, computing_dtype, normalize, statistics
from src.norms.kernels import cpu
from src.norms.kernels.setting import enabled


def normalize_by(
    found: Statistics, x: Tensor, eps: float, weight: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """`normalize` `x` by statistics that do not depend on it, such as running ones."""
    if _formula_needed(x, weight, bias, found.mean, found.var):
        return normalize(x, found.mean, found.var, eps, weight, bias)
    y: Tensor = _Normalize.apply(x, weight, bias, None, (), eps, False, found)[0]
    return y


def standardize(
    x: Tensor,
    dims: tuple[int, ...],
    eps: float,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    about_zero: bool = False,
) -> tuple[Tensor, Statistics]:
    """`normalize` `x` by its own `statistics` over `dims`, which are returned, too; arguments as there."""
    if _formula_needed(x, weight, bias):
        found = statistics(x, dims, mask, about_zero)
        return normalize(x, found.mean, found.var, eps, weight, bias), found
    y, *parts = _Normalize.apply(x, weight, bias, mask, dims, eps, about_zero, None)
    return y, Statistics(*parts)


def _formula_needed(*tensors: Tensor | None) -> bool:
    """Whether who differentiates or transforms a norm has to see its formula instead of a hand-written function.

    torch.compile fuses the formula better than a function of ours; tracing, vmap and forward-mode differentiation
    need its steps.
    """
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch._C._are_functorch_transforms_active()
        or any(t is not None and forward_ad.unpack_dual(t).tangent is not None for t in tensors)
    )


class _Normalize(torch.autograd.Function):
    """Normalization with the derivative written out by hand: it keeps the input, the weight and the statistics.

    With g = dy * weight, r = 1 / sqrt(var + eps) and the sums over the reduced dimensions of n values:

        dx = r * (g - (sum(g) + (x - mean) * r^2 * sum(g * (x - mean))) / n)

    The term of n is how x acts through the statistics: it reaches only the values that went into them, has no sum(g)
    about zero, and is absent where the statistics are given.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mask: Tensor | None,
        dims: tuple[int, ...],
        eps: float,
        about_zero: bool,
        given: Statistics | None,
    ) -> tuple[Tensor | int | None, ...]:
        ctx.kernel = kernel = find_kernel(x, weight, bias, mask, dims, about_zero, given)
        if kernel is not None:
            y, mean, var = kernel.forward(x, weight, bias, eps, given and given[:2])
            found = given or Statistics(mean, var, x.numel() // var.numel())
        else:
            found = given or statistics(x, dims, mask, about_zero)
            y = normalize(x, found.mean, found.var, eps, weight, bias)
        mean, var, _ = found
        if given and any(ctx.needs_input_grad):  # running statistics may have moved on when the backward pass comes
            mean, var = None if mean is None else mean.clone(), var.clone()
        ctx.save_for_backward(x, weight, mask, mean, var)
        ctx.dims, ctx.eps, ctx.about_zero, ctx.given = dims, eps, about_zero, given is not None
        ctx.bias_like = None if bias is None else (bias.shape, bias.dtype)
        if given:
            return (y,)
        ctx.mark_non_differentiable(*(part for part in found if isinstance(part, Tensor)))
        ctx.set_materialize_grads(False)
        return y, *found

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, *no_gradients: None) -> tuple[Tensor | None, ...]:
        if dy is None:
            return (None,) * 8
        x, weight, mask, mean, var = ctx.saved_tensors
        if torch.is_grad_enabled() and not ctx.given:  # a second derivative goes through the statistics, too
            mean, var, _ = statistics(x, ctx.dims, mask, ctx.about_zero)
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        if dy.stride() != x.stride():
            # So that dx lies as x does; an addition, since batched gradients cannot be copied into a tensor.
            dy = torch.zeros_like(x) + dy
        if ctx.kernel is not None and not _formula_needed(dy) and not torch.is_grad_enabled():
            dx, dweight, dbias = ctx.kernel.backward(dy, x, weight, mean, var, ctx.eps, ctx.given, needs_x)
            return (
                dx,
                dweight.view(weight.shape).to(weight.dtype) if needs_weight else None,
                dbias.view(ctx.bias_like[0]).to(ctx.bias_like[1]) if needs_bias else None,
                *(None,) * 5,
            )
        dtype = computing_dtype(x.dtype)
        dy = dy.to(dtype)
        deviation = x.to(dtype) if mean is None else x.to(dtype) - mean
        scale = torch.rsqrt(var + ctx.eps)

        dx = dweight = dbias = None
        if needs_bias:
            shape, bias_dtype = ctx.bias_like
            dbias = dy.sum_to_size(shape).to(bias_dtype)
        if needs_weight:
            dweight = (dy * (deviation * scale)).sum_to_size(weight.shape).to(weight.dtype)
        if needs_x:
            g = dy if weight is None else dy * weight
            if not ctx.given:
                through = deviation * (scale.square() * (g * deviation).sum(ctx.dims, keepdim=True))
                if mean is not None:
                    through = through + g.sum(ctx.dims, keepdim=True)
                if mask is None:
                    through = through / (x.numel() / max(var.numel(), 1))
                else:
                    through = through.masked_fill(~mask, 0) / mask.sum(ctx.dims, keepdim=True).clamp(min=1)
                g = g - through
            dx = (scale * g).to(x.dtype)
        return dx, dweight, dbias, None, None, None, None, None


def find_kernel(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mask: Tensor | None,
    dims: tuple[int, ...],
    about_zero: bool,
    given: Statistics | None,
) -> cpu.Kernel | None:
    """The kernel that computes the same, or None where there is none or it is not wanted."""
    if mask is not None or not enabled():
        return None
    if given is not None:
        dims = tuple(dim for dim in range(-x.ndim, 0) if -dim > given.var.ndim or given.var.shape[dim] == 1)
    return cpu.kernel_for(x, weight, bias, dims, about_zero, given is not None)
