"""The measures of a norm's input, output and next activation, computed from tensors."""

import math

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from src.norms.formula.statistics import computing_dtype

MAX_VALUES = 2**18
"""The most values of a tensor that are measured: enough for means and deviations, and quickly read."""

WHOLE, GOLDEN = 2**16, 40503
"""The golden ratio 0.618 as GOLDEN / WHOLE: not every device has float64, and float32 cannot count far enough."""

FLAT = 0.01
"""An activation whose slope is below this passes almost no gradient back."""


def subsample(x: Tensor, channel_dim: int, mask: Tensor | None) -> tuple[Tensor, int, Tensor | None]:
    """A tensor that is small enough to measure, in the dtype to compute in, with its channel dimension and its mask.

    A large `x` becomes `(K, C)`, and its mask `(K,)`: all channels at one position out of each `step` positions of all
    samples. The position within its `step` follows the multiples of the golden ratio. They do not repeat with any width
    or length, so that rows, columns and borders are sampled evenly.
    """
    x = x.detach()
    step = math.ceil(x.numel() / MAX_VALUES)
    if step > 1 and x.ndim > 1:
        x = x.movedim(channel_dim, -1)
        x = x.reshape(len(x), -1, x.shape[-1])  # (N, positions, C), in most cases a view
        num_positions = x.shape[1]
        count = len(x) * num_positions
        k = torch.arange(math.ceil(count / step), device=x.device)
        positions = (k * step + k * GOLDEN % WHOLE * step // WHOLE).clamp_(max=count - 1)
        x = x[positions // num_positions, positions % num_positions]  # (K, C)
        channel_dim, mask = -1, mask if mask is None else mask.flatten()[positions]
    return x.to(computing_dtype(x.dtype)), channel_dim, mask


def moments(x: Tensor, channel_dim: int, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel, both `(C,)`, over the positions in `mask`, which is `(B, T)` or `(K,)`."""
    dims = tuple(dim for dim in range(x.ndim) if dim != channel_dim % x.ndim)
    if mask is None:
        # Two passes: on a CPU they take a fifth of the time of torch.var_mean.
        mean = x.mean(dims, keepdim=True)
        return mean.flatten(), (x - mean).square_().mean(dims)
    weight = (mask / mask.sum()).to(x.dtype)[..., None]  # only tokens have a mask, and their channels come last
    mean = (x * weight).sum(dims)
    return mean, ((x - mean).square() * weight).sum(dims)


def over_channels(mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of all values, from those of the channels, which have equally many values."""
    return mean.mean(), (var.mean() + mean.var(correction=0)).sqrt()


def l2_norm(x: Tensor) -> Tensor:
    """The root of the sum of squares, summed in float32 at least."""
    return torch.linalg.vector_norm(x.detach(), dtype=computing_dtype(x.dtype))


def eval_gap(layer: _BatchNorm, mean: Tensor, var: Tensor) -> Tensor:
    """How far a batch norm's outputs in eval would be from its outputs in training, before weight and bias.

    This is the root mean square difference over all values of the batch. A value z, normalized with
    `s = sqrt(var + eps)` of the batch, would be `(mean - running_mean) / r + z * s / r` with
    `r = sqrt(running_var + eps)`. The mean of z is 0, and the mean of its square is `var / s^2`: 1 except for eps, and
    0 in a constant channel.
    """
    assert layer.running_mean is not None
    assert layer.running_var is not None
    running = (layer.running_var + layer.eps).sqrt()
    shift = (mean - layer.running_mean) / running
    scale = (var + layer.eps).sqrt() / running - 1
    return (shift.square() + scale.square() * (var / (var + layer.eps))).mean().sqrt()


def stuck_share(activation: nn.Module, x: Tensor, channel_dim: int, mask: Tensor | None) -> Tensor:
    """The share of channels whose activation is flat at every value of the batch, that is, dead or saturated.

    Flat means a slope below 0.01, measured as a central difference. A ReLU is flat at negative values
    (arXiv 1903.06733), a tanh or sigmoid far from 0 (https://proceedings.mlr.press/v9/glorot10a.html).
    """
    x = x.clamp(-20, 20)  # outside, activations are straight and rounding would hide the difference
    h = 0.01
    rise = (activation.forward(x + h) - activation.forward(x - h)).abs_()
    if mask is not None:
        rise = rise.masked_fill_(~mask[..., None], 0)
    steepest = rise.amax([dim for dim in range(x.ndim) if dim != channel_dim % x.ndim]) / (2 * h)
    return (steepest < FLAT).to(x.dtype).mean()
