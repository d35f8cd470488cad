"""The derivative of the formula in `functional.py`, written out: it needs the input and the statistics alone.

With z = (x - mean) / sqrt(var + eps), g = dy * weight and means over the reduced dimensions:

    dx = (g - mean(g) - z * mean(g * z)) / sqrt(var + eps)        dweight = sum(dy * z)        dbias = sum(dy)

The two means are how x acts through the statistics: they reach only the values that went into those, there is no
mean(g) about zero, and neither is there where the statistics are given. The steps are taken in place, since a fresh
tensor costs as much as a step.
"""

import torch
from torch import Tensor

from src.norms.functional import Axes, Statistics, computing_dtype, less
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
    mean, var, num_values = found
    scale = torch.rsqrt(var + eps)
    if mean is None:
        z = seen * scale
    elif axes.group is not None:
        z = (seen - mean).mul_(scale)
    else:
        z = less(seen, mean, axes.dims, mask, in_place=True)[0].mul_(scale)
    g, g_z = dy, dy * z
    if spread_weight is None or _is_constant(spread_weight, axes.dims, seen.ndim):
        # The weight comes out of the sums, which then serve the parameters, too.
        sum_g, sum_g_z = (values.sum(axes.dims, keepdim=True) for values in (g, g_z))
        dweight, dbias = _of_parameters((sum_g_z, sum_g), (weight, bias), axes, needed)
        scale = scale if spread_weight is None else scale * spread_weight
    else:
        dweight, dbias = _of_parameters((g_z, g), (weight, bias), axes, needed)
        g, g_z = dy * spread_weight, g_z.mul_(spread_weight)
        sum_g, sum_g_z = (values.sum(axes.dims, keepdim=True) for values in (g, g_z))
    if not needed[0]:
        return None, dweight, dbias

    if axes.group is not None:
        sum_g, sum_g_z = sum_over(axes.group, torch.stack((sum_g, sum_g_z)))
    count = num_values.clamp(min=1) if isinstance(num_values, Tensor) else seen.numel() / max(var.numel(), 1)
    z.mul_(sum_g_z.neg_() / count)
    if mean is not None:
        z.sub_(sum_g / count)
    if mask is not None:
        z.masked_fill_(~mask, 0)
    return z.add_(g).mul_(scale).to(x.dtype).view(x.shape), dweight, dbias


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


def _is_constant(parameter: Tensor, dims: tuple[int, ...], rank: int) -> bool:
    """Whether a parameter that broadcasts to `rank` dimensions is the same all over `dims`."""
    places = (dim % rank - rank for dim in dims)
    return all(-place > parameter.ndim or parameter.shape[place] == 1 for place in places)


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
