"""How norms are recorded in a program that leaves Python, so that optimizers of such programs recognize them."""

import torch
from torch import Tensor

from src.norms.formula.axes import Axes
from src.norms.formula.statistics import Statistics, computing_dtype


def is_exporting() -> bool:
    """Whether torch.export, torch.onnx.export or torch.jit.trace records this call."""
    return _by_torch_export() or torch.jit.is_tracing()


def is_exporting_to_onnx() -> bool:
    """Whether torch.onnx.export records this call by torch.export, and so takes operators of ONNX."""
    return _by_torch_export() and torch.onnx.is_in_onnx_export()


def _by_torch_export() -> bool:
    # torch.compile of torch 2.11 takes `torch.compiler.is_exporting()`, which returns this flag, for True.
    return torch.compiler._is_exporting_flag


def by_given(
    x: Tensor, axes: Axes, eps: float, weight: Tensor | None, bias: Tensor | None, given: Statistics
) -> Tensor:
    """The normalized `x`: an operator of ONNX, or one scale and one shift that depend on no input.

    Args:
        x, axes, eps, weight, bias, given: as in `src.norms.normalize.normalize`.
    """
    if is_exporting_to_onnx() and axes.dims == (0, *range(2, x.ndim)) and given.mean is not None:
        from src.norms.formula.onnx_operators import batch_normalization  # registers the operator at first need

        weight = torch.ones_like(given.var) if weight is None else weight
        bias = torch.zeros_like(given.var) if bias is None else bias
        return batch_normalization(x, weight, bias, given.mean, given.var, epsilon=eps)
    return scale_and_shift(x, axes, eps, weight, bias, given)


def scale_and_shift(
    x: Tensor, axes: Axes, eps: float, weight: Tensor | None, bias: Tensor | None, given: Statistics
) -> Tensor:
    """`x * scale + shift`, computed in `computing_dtype`.

    The scale and the shift are functions of parameters and given statistics. torch's own batch norm computes this form,
    too. `formula` is more accurate, because it subtracts the mean first: if a mean is 10,000 standard deviations, this
    form has an error of 1e-3 standard deviations in float32, and `formula` has none.
    """
    scale = torch.rsqrt(widened(given.var) + eps)
    if weight is not None:
        scale = scale * weight
    shift = bias
    if given.mean is not None:
        shift = -given.mean * scale if bias is None else bias - given.mean * scale
    wide = axes.parameter_shape or (-1,)
    wide = (*[1] * (x.ndim - len(wide)), *wide)  # (1, C, 1, 1): optimizers do not fold (C, 1, 1) into a convolution
    y = widened(x) * scale.reshape(wide)
    if shift is not None:
        y = y + shift.reshape(wide)
    return y if y.dtype == x.dtype else y.to(x.dtype)


def widened(x: Tensor) -> Tensor:
    """`x` in its `computing_dtype`. A conversion that changes nothing would be recorded all the same."""
    dtype = computing_dtype(x.dtype)
    return x if x.dtype == dtype else x.to(dtype)


def by_layer_normalization(
    x: Tensor, axes: Axes, eps: float, weight: Tensor | None, bias: Tensor | None
) -> Tensor | None:
    """The normalized `x` by ONNX's LayerNormalization, or None if that does not reduce these axes."""
    if axes.about_zero or axes.process_group is not None or axes.shape is not None:
        return None
    from src.norms.formula.onnx_operators import layer_normalization

    first = -len(axes.dims)
    if axes.dims == tuple(range(first, 0)):
        seen = x
    elif axes.dims == (1,):  # the channels of a map
        seen = x.movedim(1, -1)
    else:
        return None
    weight = seen.new_ones(seen.shape[first:]) if weight is None else weight
    y = layer_normalization(seen, weight, bias, axis=first, epsilon=eps)
    return y if seen is x else y.movedim(-1, 1)
