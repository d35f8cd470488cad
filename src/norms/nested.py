"""Nested tensors (`torch.nested`): batches whose samples have their own numbers of positions, without padding."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nested._internal.nested_tensor import nested_view_from_values_offsets_lengths
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

RAGGED = "ragged"


def on_nested(layer: nn.Module, forward: Callable[..., Tensor], x: Tensor) -> Tensor:
    """`forward(layer, x)` for a nested `x`: one call on all positions of all samples, `(positions, *features)`.

    The output has the layout of `x`. The output of a jagged tensor has its offsets, too, so that the two can be added.

    Args:
        layer: a norm of the last dimensions.
        forward: the layer's own forward.
        x: a nested tensor of either layout, jagged or strided.

    Raises:
        ValueError: the layer does not take nested tensors; or it is a batch norm, and `x` has holes.
        RuntimeError: the last dimensions of `x` are not those of the layer, or one of them is ragged.
    """
    name, features, shape = type(layer).__name__, _features_of(layer), _shape_of(x)
    if features is None:
        raise ValueError(
            f"{name} got a nested tensor of shape {_text(shape)}, and expected a tensor that is not nested. Nested "
            "tensors fit LayerNorm, RMSNorm, and NORMS[name](num_features, channel_dim=-1) with the names BatchNorm, "
            "GroupNorm, DynamicTanh and Derf."
        )
    if shape[1:][-len(features) :] != features:
        raise RuntimeError(
            f"{name} got a nested tensor of shape {_text(shape)}, and expected one that ends in {_text(features)}. "
            "x.transpose moves a ragged dimension forward."
        )
    if x.layout == torch.jagged:
        return _on_jagged(layer, forward, x, len(features))
    samples = x.unbind()
    rows = [sample.reshape(-1, *features) for sample in samples]
    parts = forward(layer, torch.cat(rows)).split([len(each) for each in rows])
    return torch.nested.as_nested_tensor([part.view(s.shape) for part, s in zip(parts, samples, strict=True)])


def _on_jagged(layer: nn.Module, forward: Callable[..., Tensor], x: Any, num_dims: int) -> Tensor:
    if x.lengths() is not None and isinstance(layer, _BatchNorm):
        raise ValueError(
            f"{type(layer).__name__} got a nested tensor with holes, such as torch.nested.narrow makes, and expected "
            "one without: its statistics would count what lies in the holes. This copy has none: "
            "torch.nested.as_nested_tensor(list(x.unbind()), layout=torch.jagged)"
        )
    values = x.values()
    y: Tensor = nested_view_from_values_offsets_lengths(
        # torch.nested.nested_tensor_from_jagged does the same, but logs a line about tracing at its first call.
        forward(layer, values.flatten(0, -num_dims - 1)).view(values.shape),
        x.offsets(),
        x.lengths(),
        x._ragged_idx,
        x._maybe_min_seqlen,
        x._maybe_max_seqlen,
    )
    return y


def _features_of(layer: Any) -> tuple[int, ...] | None:
    """The sizes of the last dimensions that the layer takes; None: it has to tell the samples' positions apart."""
    if getattr(layer, "channel_dim", None) != -1 or isinstance(layer, _InstanceNorm):
        return None
    if isinstance(layer, nn.LayerNorm | nn.RMSNorm):
        return layer.normalized_shape
    return (layer.num_channels if isinstance(layer, nn.GroupNorm) else layer.num_features,)


def _shape_of(x: Any) -> tuple[int | str, ...]:
    """The shape, with a word in place of the size of a ragged dimension."""
    if x.layout == torch.jagged:
        return tuple(RAGGED if dim == x._ragged_idx else size for dim, size in enumerate(x.shape))
    shapes = [sample.shape for sample in x.unbind()]
    return (len(shapes), *(sizes[0] if len({*sizes}) == 1 else RAGGED for sizes in zip(*shapes, strict=True)))


def _text(shape: tuple[int | str, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"
