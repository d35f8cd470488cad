"""How a norm by given statistics, such as a batch norm in eval, is recorded in a program that leaves Python.

The recorded form costs nothing: an optimizer of such programs folds it into the convolution before it.
"""

import torch
from torch import Tensor

from src.norms.formula.axes import Axes
from src.norms.formula.statistics import Statistics, computing_dtype


def is_exporting() -> bool:
    """Whether torch.export, torch.onnx.export or torch.jit.trace records this call."""
    return torch.compiler.is_exporting() or torch.jit.is_tracing()


def by_given(
    x: Tensor, axes: Axes, eps: float, weight: Tensor | None, bias: Tensor | None, given: Statistics
) -> Tensor:
    """The normalized `x`: an operator of ONNX, or one scale and one shift that depend on no input.

    Args:
        x, axes, eps, weight, bias, given: as in `src.norms.normalize.normalize`.
    """
    channels_second = axes.dims == (0, *range(2, x.ndim))
    if torch.compiler.is_exporting() and torch.onnx.is_in_onnx_export() and channels_second and given.mean is not None:
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
    dtype = computing_dtype(x.dtype)
    scale = torch.rsqrt(given.var.to(dtype) + eps)
    if weight is not None:
        scale = scale * weight
    shift = bias
    if given.mean is not None:
        shift = -given.mean * scale if bias is None else bias - given.mean * scale
    y = x.to(dtype) * axes.spread(scale)
    return (y if shift is None else y + axes.spread(shift)).to(x.dtype)
