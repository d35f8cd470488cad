"""The mathematics of every norm, once: take statistics over some dimensions, then normalize with them.

`statistics` and `normalize` are the formula. Layers call what `standardize.py` makes of it.

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
    num_values: int | Tensor = 0  # values that went into each mean; 0: they were given

    def unbiased_var(self) -> Tensor:
        """The variance divided by count - 1, which running statistics track."""
        if isinstance(self.num_values, Tensor):
            return self.var * self.num_values / (self.num_values - 1).clamp(min=1)
        return self.var * (self.num_values / (self.num_values - 1))


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

    count = mask.sum(dims, keepdim=True)
    divisor = count.clamp(min=1)
    mean = None if about_zero else x.masked_fill(~mask, 0).sum(dims, keepdim=True) / divisor
    deviation = (x if mean is None else x - mean).masked_fill(~mask, 0)
    return Statistics(mean, deviation.square().sum(dims, keepdim=True) / divisor, count)


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


def dense(x: Tensor) -> Tensor:
    """`x` if it is contiguous or channels last, else a contiguous copy; outputs and gradients then lie as it does."""
    if x.is_contiguous() or torch._C._are_functorch_transforms_active():  # vmap knows no memory format
        return x
    channels_last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.ndim, torch.contiguous_format)
    return x if x.is_contiguous(memory_format=channels_last) else x.contiguous()


def check_dtypes(x: Tensor, *parameters: Tensor | None) -> None:
    """Raise torch's error unless the parameters have the type of `x`, or float32 where `x` is of a half type."""
    dtypes = {parameter.dtype for parameter in parameters if parameter is not None}
    if dtypes and dtypes != {x.dtype} and dtypes != {computing_dtype(x.dtype)}:
        raise RuntimeError(
            "mixed dtype (CPU): expect parameter to have scalar type of Float"
            if dtypes & {torch.float16, torch.bfloat16}
            else "mixed dtype (CPU): all inputs must share same datatype."
        )
    if not x.is_floating_point():
        raise NotImplementedError(f"normalization is not implemented for {x.dtype}")


def autocast_to_float32(x: Tensor) -> Tensor:
    """`x`, in float32 where autocast of a GPU asks layer, group and RMS norms for it; on CPU it does not."""
    device = x.device.type
    half = x.dtype in (torch.float16, torch.bfloat16)
    return x.float() if half and device != "cpu" and torch.is_autocast_enabled(device) else x


def is_recomputing() -> bool:
    """Whether this forward pass runs inside of a backward pass, as one that activation checkpointing repeats does.

    The batch has then been counted before. torch.compile repeats no side effects, so there is nothing to ask.
    """
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


def follow(running: Tensor, batch: Tensor, factor: float | Tensor) -> None:
    """Move a running statistic towards a batch's, in place: `running += factor * (batch - running)`.

    A pass that is repeated computes the same and writes nothing: selective checkpointing counts operations.
    """
    moved = running.to(batch.dtype).lerp(batch, factor)
    if not is_recomputing():
        running.copy_(moved)
