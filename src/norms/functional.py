"""The mathematics of every norm, once: take statistics over some dimensions, then normalize with them.

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
the scale is applied, for the same reason.
"""

from typing import NamedTuple, overload

import torch
from torch import Tensor


class Statistics(NamedTuple):
    """What `statistics` finds: each tensor keeps the reduced dimensions with size 1."""

    mean: Tensor | None  # None: taken about zero
    var: Tensor  # biased: divided by count
    num_values: int | Tensor  # values that went into each mean

    def unbiased_var(self) -> Tensor:
        """The variance divided by count - 1, which running statistics track."""
        spare = self.num_values - 1
        return self.var * (self.num_values / (spare.clamp(min=1) if isinstance(spare, Tensor) else spare))


def computing_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type in which a tensor of `dtype` is summed: float32 for the half types, else the type itself."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


@overload
def broadcast_along(vector: Tensor, x: Tensor, dim: int) -> Tensor: ...
@overload
def broadcast_along(vector: None, x: Tensor, dim: int) -> None: ...
def broadcast_along(vector: Tensor | None, x: Tensor, dim: int) -> Tensor | None:
    """The vector `(C,)` shaped to broadcast along dimension `dim` of `x`: `(1, C, 1, 1)` for dim 1 of a map."""
    if vector is None or dim in (-1, x.ndim - 1):
        return vector
    return vector.reshape(-1, *[1] * (x.ndim - dim - 1))


def statistics(x: Tensor, dims: tuple[int, ...], mask: Tensor | None = None, about_zero: bool = False) -> Statistics:
    """Mean and biased variance of `x` over `dims`.

    Args:
        x: any floating-point tensor.
        dims: the dimensions that are reduced.
        mask: True where `x` counts, broadcastable to `x` and of size 1 in the dimensions that are kept;
            None: all of it counts.
        about_zero: take the mean square instead, as RMSNorm does.
    """
    x = x.to(computing_dtype(x.dtype))
    if mask is None:
        count: int | Tensor = 1
        for dim in dims:
            count *= x.shape[dim]
        mean = None if about_zero else x.mean(dims, keepdim=True)
        deviation = x if mean is None else x - mean
        return Statistics(mean, deviation.square().mean(dims, keepdim=True), count)

    count = mask.sum(dims, keepdim=True).clamp(min=1)
    mean = None if about_zero else x.masked_fill(~mask, 0).sum(dims, keepdim=True) / count
    deviation = (x if mean is None else x - mean).masked_fill(~mask, 0)
    return Statistics(mean, deviation.square().sum(dims, keepdim=True) / count, count)


def normalize(
    x: Tensor, mean: Tensor | None, var: Tensor, eps: float, weight: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """`(x - mean) / sqrt(var + eps) * weight + bias`, in the type of `x`; all others broadcast to `x`."""
    y = x.to(computing_dtype(x.dtype))
    if mean is not None:
        y = y - mean
    y = y * torch.rsqrt(var + eps)
    if weight is not None:
        y = y * weight
    if bias is not None:
        y = y + bias
    return y.to(x.dtype)


@torch.no_grad()
def follow(running: Tensor | None, batch: Tensor, factor: float | Tensor) -> None:
    """Move a running statistic towards a batch's, in place: `running += factor * (batch - running)`."""
    if running is not None:
        running.add_((batch.to(running.dtype) - running) * factor)
