"""The derivative of the formula in `functional.py`, written out: it needs the input and the statistics alone.

With z = (x - mean) / sqrt(var + eps), g = dy * weight / sqrt(var + eps) and means over the reduced dimensions:

    dx = g - mean(g) - z * mean(g * z)        dweight = sum(dy * z)        dbias = sum(dy)

The two means are how x acts through the statistics: they reach only the values that went into those, there is no
mean(g) about zero, and neither is there where the statistics are given. Along dimensions in which the weight does not
vary dy and dy * z are summed once for all of these; what the mean's rounding took goes into the sums, then, too. The
steps are taken in place, since a fresh tensor costs as much as a step.
"""

import torch
from torch import Tensor

from src.norms.functional import Axes, Statistics, computing_dtype, steady_dims
from src.norms.processes import sum_over

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]


def gradients(
    dy: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mask: Tensor | None,
    axes: Axes,
    eps: float,
    found: Statistics,
    needed: tuple[bool, ...],
) -> Gradients:
    """The gradients of input, weight and bias, as far as they are `needed`, through the statistics `found` in `x`."""
    seen, dy, spread_weight = _seen(x, axes), _seen(dy, axes), axes.spread(weight)
    mean, var, num_values, rest = found
    scale = torch.rsqrt(var + eps)
    deviation = seen if mean is None else seen - mean
    steady = axes.dims
    if spread_weight is not None:
        steady = steady_dims(spread_weight, tuple(dim for dim in steady if seen.shape[dim] > 1), seen.ndim)
    if rest is not None and not steady:
        deviation, rest = deviation.sub_(rest), None
    dy_d = dy * deviation
    sum_dy, sum_dy_z = (v.sum(steady, keepdim=True) for v in (dy, dy_d)) if steady else (dy, dy_d)
    if rest is not None:
        sum_dy_z.sub_(rest * sum_dy)
    sum_dy_z.mul_(scale)
    dweight, dbias = _of_parameters((sum_dy_z, sum_dy), (weight, bias), axes, needed)
    if not needed[0]:
        return None, dweight, dbias

    if steady or spread_weight is None:
        factor = scale if spread_weight is None else scale * spread_weight
        sum_g, sum_g_z = ((values * factor).sum(axes.dims, keepdim=True) for values in (sum_dy, sum_dy_z))
        g = torch.mul(dy, factor, out=dy_d)  # the tensor of the products serves again
    else:
        g = (dy * spread_weight).mul_(scale)
        sum_g = g.sum(axes.dims, keepdim=True)
        sum_g_z = sum_dy_z.mul_(spread_weight).sum(axes.dims, keepdim=True).mul_(scale)
    if axes.group is not None:
        sum_g, sum_g_z = sum_over(axes.group, torch.stack((sum_g, sum_g_z)))
    count = num_values.clamp(min=1) if isinstance(num_values, Tensor) else seen.numel() / max(var.numel(), 1)
    slope = sum_g_z.neg_().mul_(scale) / count
    dx = torch.mul(deviation, slope, out=None if mean is None else deviation)
    if mean is not None:
        dx.sub_(sum_g / count if rest is None else sum_g / count + rest * slope)
    if mask is not None:
        dx.masked_fill_(~mask, 0)
    return dx.add_(g).to(x.dtype).view(x.shape), dweight, dbias


def gradients_by_given(
    dy: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    axes: Axes,
    eps: float,
    given: Statistics,
    needed: tuple[bool, ...],
) -> Gradients:
    """The gradients of input, weight and bias, as far as they are `needed`, where the statistics are `given`."""
    seen, dy, spread_weight = _seen(x, axes), _seen(dy, axes), axes.spread(weight)
    mean, scale = axes.spread(given.mean), torch.rsqrt(axes.spread(given.var) + eps)
    dy_z = dy * ((seen if mean is None else seen - mean) * scale) if needed[1] else dy
    dweight, dbias = _of_parameters((dy_z, dy), (weight, bias), axes, needed)
    scale = scale if spread_weight is None else scale * spread_weight
    return ((dy * scale).to(x.dtype).view(x.shape) if needed[0] else None), dweight, dbias


def _seen(values: Tensor, axes: Axes) -> Tensor:
    values = values.to(computing_dtype(values.dtype))
    return values if axes.shape is None else values.view(axes.shape)


def _of_parameters(
    values: tuple[Tensor, Tensor], parameters: tuple[Tensor | None, Tensor | None], axes: Axes, needed: tuple[bool, ...]
) -> tuple[Tensor | None, Tensor | None]:
    """The sums of `values` over all that weight and bias, where they are needed, are broadcast over."""

    def total(value: Tensor, parameter: Tensor | None, is_needed: bool) -> Tensor | None:
        if parameter is None or not is_needed:
            return None
        found = value.sum_to_size(axes.spread(parameter).shape)
        found = value.clone() if found is value else found  # `value` is written over
        return found.to(parameter.dtype).view(parameter.shape)

    dweight, dbias = (total(*each) for each in zip(values, parameters, needed[1:], strict=False))
    return dweight, dbias
