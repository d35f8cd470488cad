"""Operators of ONNX with the numbers of our norms, for torch.onnx.export.

torch's exporter writes an operator `onnx::NAME.opsetN` to the file as the ONNX operator NAME. It then folds a
BatchNormalization into the convolution, transposed convolution or matrix product before it. The recorded program
outside the file still computes with the functions here.
"""

import torch
from torch import Tensor

from src.norms.formula.axes import axes_within, last_axes
from src.norms.formula.export import scale_and_shift
from src.norms.formula.normalization import formula
from src.norms.formula.statistics import Statistics


@torch.library.custom_op("onnx::BatchNormalization.opset15", mutates_args=())
def batch_normalization(x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor, *, epsilon: float) -> Tensor:
    """Normalizes each channel of `(N, C, *)` by a given mean and variance."""
    return scale_and_shift(x, axes_within(1, x.ndim), epsilon, scale, bias, Statistics(mean, var))


@batch_normalization.register_fake
def _(x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor, *, epsilon: float) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("onnx::LayerNormalization.opset17", mutates_args=())
def layer_normalization(x: Tensor, scale: Tensor, bias: Tensor | None, *, axis: int, epsilon: float) -> Tensor:
    """Normalizes over the dimensions from `axis` on."""
    return formula(x, last_axes(-axis), epsilon, scale, bias)[0]


@layer_normalization.register_fake
def _(x: Tensor, scale: Tensor, bias: Tensor | None, *, axis: int, epsilon: float) -> Tensor:
    return torch.empty_like(x)
