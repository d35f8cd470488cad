"""Replace every norm of a model by another norm."""

import copy
from collections.abc import Mapping

import torch
from torch import nn

from src.norms.family import NormFamily
from src.norms.padding import has_time_first, share_padding_mask
from src.norms.padding_probe import effect_of_padding, takes_tokens, why_padding_counts
from src.norms.recognize import Found, examine, is_norm


def _replacement(
    name: str, found: Found, family: NormFamily, default: torch.Tensor | None, memo: dict[int, object]
) -> nn.Module:
    if found.kind == family.kind and (layer_class := family.same_named(found.class_name)):
        # A copy with another class keeps parameters, buffers, hooks and flags exactly.
        group = getattr(found.layer, "process_group", None)
        memo[id(group)] = group  # a process group cannot be copied
        layer = copy.deepcopy(found.layer, memo)
        layer.__class__ = layer_class
        family.set_options(layer)
        return layer
    if found.site.num_dims > 1:
        raise ValueError(
            f"{type(family).__name__} does not fit layer '{name}': it normalizes over several dimensions, "
            f"{tuple(found.layer.normalized_shape)}; only LayerNorm and RMSNorm of that shape can take its place"  # type: ignore[arg-type]
        )
    layer = family.build(found.site)
    like = next((t for t in (*found.layer.parameters(), *found.layer.buffers()) if t.is_floating_point()), default)
    if like is not None:
        layer.to(device=like.device, dtype=like.dtype)
    return layer.train(found.layer.training)


def swap_norms(model: nn.Module, norm: NormFamily) -> dict[str, nn.Module]:
    """Replace every norm in `model` by `norm`, in place.

    The replaced layer decides the layout: `(N, C, *)` for a batch, group or instance norm, `(..., D)` for a layer or
    RMS norm. A layer that is replaced by one of its own kind (torch's BatchNorm2d by ours) keeps its weights, running
    statistics, options and hooks. Any other new layer starts with fresh weights. It takes over eps, momentum, whether
    there is a weight and a bias, device, dtype and the training flag, unless `norm` sets them. Shared modules and
    parameters stay shared. If the model takes an `attention_mask`, the mask is passed to the norms whose statistics run
    over positions. The masks of torch's encoders and decoders are passed, too.

    Returns:
        The replaced layers by name. `model.set_submodule(name, layer)` for each of them undoes the swap.

    Raises:
        ValueError: a norm does not fit a layer (the message names the layer and a value that fits), or `model` is
            itself a norm, which cannot be replaced in place; or padding would count in the statistics of a text model,
            as two small forward passes show. The model is unchanged.
    """
    if is_norm(model):
        raise ValueError(
            f"the model is itself a norm ({type(model).__name__}), which cannot be replaced in place: "
            "build the layer with NORMS[name](num_features, channel_dim)"
        )
    replaced = {name: m for name, m in model.named_modules(remove_duplicate=False) if is_norm(m)}
    found = {layer: examine(name, layer) for name, layer in replaced.items()}
    norm.check({name: found[layer].site for name, layer in replaced.items() if norm.changes(found[layer].kind)})

    for name, layer in replaced.items():
        if norm.needs_positions and found[layer].site.channel_dim == -1 and has_time_first(model, name):
            raise ValueError(
                f"{type(norm).__name__} does not fit layer '{name}', whose input is (T, B, D), since the attention "
                "beside it has batch_first=False: build the model with batch_first=True, or take a norm of one "
                "position, such as LayerNorm"
            )

    default = next((p for p in model.parameters() if p.is_floating_point()), None)
    memo: dict[int, object] = {}  # one for all copies, so that tied parameters stay tied
    new: dict[nn.Module, nn.Module] = {}
    for name, layer in replaced.items():
        if layer not in new:
            new[layer] = _replacement(name, found[layer], norm, default, memo)
    _put(model, {name: new[layer] for name, layer in replaced.items()})
    _leave_padding_out(model, norm, replaced)
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer):
            # The fused inference path of this class reads the norms' weights and computes a layer norm itself. Without
            # a known activation the class calls its layers.
            module.activation_relu_or_gelu = 0
        elif isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False  # only the fused path takes nested tensors
    return replaced


def _put(model: nn.Module, layers: Mapping[str, nn.Module]) -> None:
    for name, layer in layers.items():
        model.set_submodule(name, layer)


def _leave_padding_out(model: nn.Module, norm: NormFamily, replaced: Mapping[str, nn.Module]) -> None:
    """Pass padding masks to the norms, and refuse a model in which padding counts all the same."""
    hooks = share_padding_mask(model)
    reason = why_padding_counts(model) if takes_tokens(model) else None
    if reason is None:
        return
    new = {name: model.get_submodule(name) for name in replaced}
    _put(model, replaced)
    try:
        effect_of_padding(model)
    except Exception:  # the model takes other inputs, too, so that it cannot be tried here
        _put(model, new)
        return
    for hook in hooks:
        hook.remove()
    raise ValueError(
        f"{type(norm).__name__} does not fit {type(model).__name__}: {reason.rstrip('.')}. Take a norm of one "
        "position, such as LayerNorm, or masked=false to count padding"
    )
