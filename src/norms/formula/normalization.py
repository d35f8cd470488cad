"""The formula of a normalization in torch's operations, which autograd, compilers and tracers can follow."""

import torch
from torch import Tensor

from src.norms.formula.axes import Axes
from src.norms.formula.export import by_given, by_layer_normalization, is_exporting, is_exporting_to_onnx
from src.norms.formula.processes import merge
from src.norms.formula.statistics import Statistics, computing_dtype, deviations


def formula(
    x: Tensor,
    axes: Axes,
    eps: float,
    weight: Tensor | None,
    bias: Tensor | None,
    mask: Tensor | None = None,
    given: Statistics | None = None,
    in_place: bool = False,
) -> tuple[Tensor, Statistics]:
    """The output, and the statistics: those of `x`, or the given ones.

    Args:
        x, axes, eps, weight, bias, mask, given: as in `src.norms.normalize.normalize`.
        in_place: save memory by writing over intermediate tensors, if nothing records the operations.
    """
    if given is not None and is_exporting():
        return by_given(x, axes, eps, weight, bias, given), given
    seen = x if axes.shape is None else x.view(axes.shape)
    if given is None:
        deviation, found = deviations(seen, axes.dims, mask, axes.about_zero)
        rest = found.rest
        if mask is None and is_exporting_to_onnx():
            exported = by_layer_normalization(x, axes, eps, weight, bias)
            if exported is not None:
                return exported, found
        if axes.process_group is not None:
            found, rest = merge(found, axes.process_group)
    else:
        found, rest = given, None
        deviation = seen.to(computing_dtype(x.dtype))
        if given.mean is not None:
            deviation = deviation - axes.spread(given.mean)
    var = found.var if given is None else axes.spread(given.var).to(deviation.dtype)
    out = deviation if in_place and not axes.about_zero else None
    y = rescale(deviation, axes.dims, var, eps, axes.spread(weight), axes.spread(bias), rest, out).to(x.dtype)
    if axes.shape is not None:  # torch's output is no view; but a trace would record `x.shape` as a constant
        y = y.view_as(x) if torch.jit.is_tracing() else torch.ops.aten._unsafe_view(y, x.shape)
    return y, found


def rescale(
    deviation: Tensor,
    dims: tuple[int, ...],
    var: Tensor,
    eps: float,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    rest: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """`(deviation - rest) / sqrt(var + eps) * weight + bias`.

    Args:
        deviation: all others broadcast to it.
        dims: the reduced dimensions, along which `var` and `rest` do not vary.
        var: the variance.
        eps: added to the variance.
        weight, bias: None: left out.
        rest: the part of the mean that is not subtracted yet; None: nothing.
        out: the tensor that takes the output, such as `deviation` itself; None: a new one.
    """
    scale = torch.rsqrt(var + eps)
    if weight is not None and steady_dims(weight, dims, deviation.ndim):
        scale, weight = scale * weight, None  # fewer values than the deviations
    if rest is not None and weight is None:
        bias = -rest * scale if bias is None else bias - rest * scale
    elif rest is not None:
        deviation = torch.sub(deviation, rest, out=out)
    y = torch.mul(deviation, scale, out=out)
    if weight is not None:
        y = torch.mul(y, weight, out=out)
    if bias is not None:
        y = torch.add(y, bias, out=out)
    return y


def steady_dims(parameter: Tensor, dims: tuple[int, ...], rank: int) -> tuple[int, ...]:
    """The dimensions among `dims` along which a parameter that broadcasts to `rank` dimensions does not vary."""
    places = {dim: rank - dim % rank for dim in dims}  # counted from the end
    return tuple(dim for dim, place in places.items() if place > parameter.ndim or parameter.shape[-place] == 1)
