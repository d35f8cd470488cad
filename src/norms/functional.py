"""The mathematics of every norm, once: deviations from a mean over some axes, scaled by their spread.

`deviations` and `normalize` are the formula. Layers call what `standardize.py` makes of it.

A norm is a choice of the dimensions that are reduced:

| norm         | of (N, C, *)            | of (B, T, D)                    |
|--------------|-------------------------|---------------------------------|
| BatchNorm    | N and *                 | B and T                         |
| InstanceNorm | *                       | T                               |
| GroupNorm    | a group of C, and *     | a group of D                    |
| LayerNorm    | C                       | D                               |
| RMSNorm      | C, about zero           | D, about zero                   |

Numerical care: float16 and bfloat16 are computed in float32; the variance is taken in a second pass around the mean,
since E[x^2] - E[x]^2 cancels to garbage where the mean is large against the spread; the mean is subtracted before
the scale is applied, for the same reason. A mean that is far from zero is rounded coarsely against the spread: the
mean of the deviations from it, the rest, tells by how much. It corrects the variance (the two-pass algorithm of Chan,
Golub and LeVeque, 1983) and is taken off where the bias is added, so that it costs no pass of its own.

The result does not depend on where the deviations are taken from, so the rounded mean counts as a constant when the
formula is differentiated, in any order: x acts through the rest and the variance.
"""

from typing import NamedTuple, overload

import torch
from torch import Tensor
from torch.distributed import ProcessGroup


class Axes(NamedTuple):
    """Which values of an input share a mean.

    Args:
        dims: the dimensions that are reduced.
        shape: in which the input is seen for that; None: its own.
        parameter_shape: in which weight, bias and given statistics are seen to broadcast; None: their own.
        about_zero: take the mean square instead of mean and variance, as RMSNorm does.
        group: the processes whose values share it, too; None: this one's alone.
    """

    dims: tuple[int, ...]
    shape: tuple[int, ...] | None = None
    parameter_shape: tuple[int, ...] | None = None
    about_zero: bool = False
    group: ProcessGroup | None = None

    @overload
    def spread(self, parameter: Tensor) -> Tensor: ...
    @overload
    def spread(self, parameter: None) -> None: ...
    def spread(self, parameter: Tensor | None) -> Tensor | None:
        """A parameter in the shape that broadcasts: `(C,)` as `(C, 1, 1)` for the channels of a map."""
        if parameter is None or self.parameter_shape is None:
            return parameter
        return parameter.reshape(self.parameter_shape)


class Statistics(NamedTuple):
    """Mean and variance; those that `deviations` finds keep the reduced dimensions with size 1."""

    mean: Tensor | None  # None: taken about zero
    var: Tensor  # biased: divided by count
    num_values: int | Tensor = 0  # values that went into each mean; 0: they were given
    rest: Tensor | None = None  # what rounding took from the mean; None: not asked

    def whole_mean(self) -> Tensor | None:
        """The mean with what its rounding took."""
        return self.mean if self.mean is None or self.rest is None else self.mean + self.rest

    def unbiased_var(self) -> Tensor:
        """The variance divided by count - 1, which running statistics track."""
        if isinstance(self.num_values, Tensor):
            return self.var * self.num_values / (self.num_values - 1).clamp(min=1)
        return self.var * (self.num_values / (self.num_values - 1))


def computing_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type in which a tensor of `dtype` is summed: float32 for the half types, else the type itself."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def shape_along(dim: int, rank: int) -> tuple[int, ...] | None:
    """The shape in which a vector broadcasts along dimension `dim` of `rank`: `(-1, 1, 1)` for dim 1 of a map."""
    return None if dim in (-1, rank - 1) else (-1, *[1] * (rank - dim - 1))


def last_axes(num_dims: int, about_zero: bool = False) -> Axes:
    """The last dimensions share a mean."""
    return Axes(tuple(range(-num_dims, 0)), about_zero=about_zero)


def axes_within(channel: int, rank: int, first: int = 0) -> Axes:
    """All dimensions of `rank` but the channel's share a mean, from the `first` on."""
    channel %= rank
    dims = tuple(dim for dim in range(first, rank) if dim != channel)
    return Axes(dims, parameter_shape=shape_along(channel, rank))


def axes_across(channel: int, rank: int, about_zero: bool = False) -> Axes:
    """The channels of one place share a mean."""
    return Axes((channel % rank,), parameter_shape=shape_along(channel, rank), about_zero=about_zero)


def mean_over(x: Tensor, dims: tuple[int, ...], mask: Tensor | None = None) -> Tensor:
    """The mean over `dims`, which stay with size 1, of what `mask` lets through; 0 where that, or `x`, is nothing.

    Args:
        mask: True where `x` counts, broadcastable to `x` and of size 1 in the dimensions that are kept; None: all does.
    """
    if mask is None:
        return x.mean(dims, keepdim=True) if x.numel() else x.sum(dims, keepdim=True)
    return x.masked_fill(~mask, 0).sum(dims, keepdim=True) / mask.sum(dims, keepdim=True).clamp(min=1)


def deviations(
    x: Tensor, dims: tuple[int, ...], mask: Tensor | None = None, about_zero: bool = False
) -> tuple[Tensor, Statistics]:
    """`x` less its rounded mean over `dims`, in the type computed in, and the statistics; `mask` as in `mean_over`.

    About zero the deviation is `x` itself, and the variance the mean square.
    """
    x = x.to(computing_dtype(x.dtype))
    count: int | Tensor = 1
    if mask is None:
        for dim in dims:
            count *= x.shape[dim]
    else:
        count = mask.sum(dims, keepdim=True)
    if about_zero:
        return x, Statistics(None, mean_over(x.square(), dims, mask), count)
    mean = mean_over(x.detach(), dims, mask)
    deviation = x - mean
    rest = mean_over(deviation, dims, mask)
    var = mean_over(deviation.square(), dims, mask) - rest.square()
    var = var - var.detach().clamp(max=0)  # what rounding takes below 0 is 0; a derivative needs no branch for it
    return deviation, Statistics(mean, var, count, rest)


def steady_dims(parameter: Tensor, dims: tuple[int, ...], rank: int) -> tuple[int, ...]:
    """Those of `dims` along which a parameter that broadcasts to `rank` dimensions does not vary."""
    places = {dim: rank - dim % rank for dim in dims}  # counted from the end
    return tuple(dim for dim, place in places.items() if place > parameter.ndim or parameter.shape[-place] == 1)


def normalize(
    deviation: Tensor,
    dims: tuple[int, ...],
    var: Tensor,
    eps: float,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    rest: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """`(deviation - rest) / sqrt(var + eps) * weight + bias`, where the deviation may be `out`.

    All others broadcast to it; those of a variance do not vary along `dims`.
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


def is_recomputing() -> bool:
    """Whether this forward pass runs inside of a backward pass, as one that activation checkpointing repeats does.

    The batch has then been counted before. torch.compile repeats no side effects, so there is nothing to ask.
    """
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


def follow_one(running: Tensor, batch: Tensor, factor: float | Tensor) -> None:
    """Move a running statistic towards a batch's, in place: `running += factor * (batch - running)`.

    A pass that is repeated computes the same and writes nothing: selective checkpointing counts operations.
    """
    moved = running.to(batch.dtype).lerp(batch, factor)
    if not is_recomputing():
        running.copy_(moved)
