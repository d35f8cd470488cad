"""The derivative of the formula, written out: it needs only the input and the statistics.

With z = (x - mean) / sqrt(var + eps), g = dy * weight / sqrt(var + eps) and means over the reduced dimensions:

    dx = g - mean(g) - z * mean(g * z)        dweight = sum(dy * z)        dbias = sum(dy)

The two means are the gradient through the statistics. They apply only to the values from which the statistics were
computed. About zero, mean(g) is left out. With given statistics, both means are left out. dy and dy * z are summed once
along all dimensions in which the weight does not vary; the sums then include the rest of the mean, too. The operations
work in place, since a new tensor costs as much time as an operation.
"""

import torch
from torch import Tensor

from src.norms.formula.axes import Axes
from src.norms.formula.normalization import formula, steady_dims
from src.norms.formula.processes import sum_over
from src.norms.formula.statistics import Statistics, computing_dtype

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
    """The gradients of input, weight and bias that are `needed`, through the statistics `found` in `x`."""
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
        g = torch.mul(dy, factor, out=dy_d)  # reuses the tensor of the products
    else:
        g = (dy * spread_weight).mul_(scale)
        sum_g = g.sum(axes.dims, keepdim=True)
        sum_g_z = sum_dy_z.mul_(spread_weight).sum(axes.dims, keepdim=True).mul_(scale)
    if axes.process_group is not None:
        sum_g, sum_g_z = sum_over(axes.process_group, torch.stack((sum_g, sum_g_z)))
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
    """The gradients of input, weight and bias that are `needed`, where the statistics are `given`."""
    seen, dy, spread_weight = _seen(x, axes), _seen(dy, axes), axes.spread(weight)
    mean, scale = axes.spread(given.mean), torch.rsqrt(axes.spread(given.var).to(dy.dtype) + eps)
    dy_z = dy * ((seen if mean is None else seen - mean) * scale) if needed[1] else dy
    dweight, dbias = _of_parameters((dy_z, dy), (weight, bias), axes, needed)
    scale = scale if spread_weight is None else scale * spread_weight
    return ((dy * scale).to(x.dtype).view(x.shape) if needed[0] else None), dweight, dbias


def gradients_by_autograd(
    dy: Tensor,
    needed: tuple[bool, ...],
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mask: Tensor | None,
    axes: Axes,
    eps: float,
    given: Statistics | None,
) -> Gradients:
    """The gradients by autograd through the formula, which can be differentiated and transformed again."""
    with torch.enable_grad():
        # Aliases, so that no hook of the tensors themselves is called.
        x, weight, bias = (None if t is None else t.view_as(t) for t in (x, weight, bias))  # type: ignore[assignment]
        y, _ = formula(x, axes, eps, weight, bias, mask, given)
    wanted = [tensor for tensor, is_needed in zip((x, weight, bias), needed, strict=False) if is_needed]
    found = iter(torch.autograd.grad(y, wanted, dy, create_graph=torch.is_grad_enabled()))  # type: ignore[arg-type]
    dx, dweight, dbias = (next(found) if is_needed else None for is_needed in needed[:3])
    return dx, dweight, dbias


def _seen(values: Tensor, axes: Axes) -> Tensor:
    values = values.to(computing_dtype(values.dtype))
    return values if axes.shape is None else values.view(axes.shape)


def _of_parameters(
    values: tuple[Tensor, Tensor], parameters: tuple[Tensor | None, Tensor | None], axes: Axes, needed: tuple[bool, ...]
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of weight and bias: `values`, summed over the dimensions along which the parameters broadcast."""

    def total(value: Tensor, parameter: Tensor | None, is_needed: bool) -> Tensor | None:
        if parameter is None or not is_needed:
            return None
        found = value.sum_to_size(axes.spread(parameter).shape)
        found = value.clone() if found is value else found  # `value` is overwritten later
        return found.to(parameter.dtype).view(parameter.shape)

    dweight, dbias = (total(*each) for each in zip(values, parameters, needed[1:], strict=False))
    return dweight, dbias
