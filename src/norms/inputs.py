"""Checks and conversions of a layer's input: number of dimensions, memory format, types."""

import torch
from torch import Tensor, nn

from src.norms.formula.statistics import computing_dtype


def check_at_least_2d(layer: nn.Module, input: Tensor) -> None:
    """Raise ValueError unless the input is `(N, C, *)`: the `_check_input_dim` of layers that take any such input."""
    if input.ndim < 2:
        raise ValueError(f"expected at least 2D input (got {input.ndim}D input)")


def dense(x: Tensor) -> Tensor:
    """`x` if it is contiguous or channels last, else a contiguous copy. Outputs and gradients get its memory format."""
    if x.is_contiguous() or torch._C._are_functorch_transforms_active():  # vmap has no memory formats
        return x
    channels_last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.ndim, torch.contiguous_format)
    return x if x.is_contiguous(memory_format=channels_last) else x.contiguous()


def check_dtypes(x: Tensor, *parameters: Tensor | None) -> None:
    """Raise torch's error unless the parameters have the type of `x`, or float32 if `x` has a half type."""
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
    """`x` for a layer, group or RMS norm: GPU autocast computes these in float32, and CPU autocast does not."""
    if x.dtype not in (torch.float16, torch.bfloat16):
        return x
    device = x.device.type
    return x.float() if device != "cpu" and torch.is_autocast_enabled(device) else x
