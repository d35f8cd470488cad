"""Replace every norm of a model by another norm."""

import copy

import torch
from torch import nn

from src.norms.family import NormFamily
from src.norms.padding import share_padding_mask
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
    over positions.

    Returns:
        The replaced layers by name. `model.set_submodule(name, layer)` for each of them undoes the swap.

    Raises:
        ValueError: a norm does not fit a layer (the message names the layer and a value that fits), or `model` is
            itself a norm, which cannot be replaced in place. The model is unchanged.
    """
    if is_norm(model):
        raise ValueError(
            f"the model is itself a norm ({type(model).__name__}), which cannot be replaced in place: "
            "build the layer with NORMS[name](num_features, channel_dim)"
        )
    replaced = {name: m for name, m in model.named_modules(remove_duplicate=False) if is_norm(m)}
    found = {layer: examine(name, layer) for name, layer in replaced.items()}
    norm.check({name: found[layer].site for name, layer in replaced.items() if norm.changes(found[layer].kind)})

    default = next((p for p in model.parameters() if p.is_floating_point()), None)
    memo: dict[int, object] = {}  # one for all copies, so that tied parameters stay tied
    new: dict[nn.Module, nn.Module] = {}
    for name, layer in replaced.items():
        if layer not in new:
            new[layer] = _replacement(name, found[layer], norm, default, memo)
    for name, layer in replaced.items():
        model.set_submodule(name, new[layer])
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer):
            # The fused inference path of this class reads the norms' weights and computes a layer norm itself. Without
            # a known activation the class calls its layers.
            module.activation_relu_or_gelu = 0
        elif isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False  # only the fused path takes nested tensors
    share_padding_mask(model)
    return replaced
