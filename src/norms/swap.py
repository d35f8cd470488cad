"""Replace every norm of a model by another norm."""

import copy
import warnings
from collections.abc import Collection
from typing import Any

import torch
from torch import nn

from src.norms.family import NormFamily
from src.norms.hooks import copy_layer, share_hooks
from src.norms.padding import is_time_first_at
from src.norms.padding_probe import leave_padding_out
from src.norms.recognize import Found, examine, family_of, is_norm, named_norms
from src.norms.replaced import Replaced, by_reason


def _replacement(
    name: str, found: Found, family: NormFamily, default: torch.Tensor | None, memo: dict[int, Any]
) -> tuple[nn.Module, Collection[str]]:
    """The new layer, and the keys of its state dict whose values are the replaced layer's."""
    old = found.layer
    if found.class_name and found.kind == family.kind and (layer_class := family.same_named(found.class_name)):
        # A copy with another class keeps parameters, buffers and flags exactly.
        try:
            new = copy_layer(old, memo)
        except Exception as error:  # what a user keeps on a layer may fail to be copied in any way
            raise ValueError(f"layer '{name}' ({type(old).__name__}) cannot be copied: {error}") from error
        new.__class__ = layer_class
        family.set_options(new)
        return new, new.state_dict().keys()
    new = family.build(found.site)
    like = next((t for t in (*old.parameters(), *old.buffers()) if t.is_floating_point()), default)
    if like is not None:
        new.to(device=like.device, dtype=like.dtype)
    share_hooks(old, new)
    return new.train(old.training), _take_parameters(old, new, memo, keep=found.kind is not None)


def _take_parameters(old: nn.Module, new: nn.Module, memo: dict[int, Any], keep: bool) -> list[str]:
    """Train and, with `keep`, start the parameters of `new` as those of `old`. Returns the names of those kept."""
    kept = []
    parameters = dict(old.named_parameters())
    frozen = bool(parameters) and not any(parameter.requires_grad for parameter in parameters.values())
    for name, parameter in list(new.named_parameters()):
        known = parameters.get(name)
        parameter.requires_grad_(not frozen if known is None else known.requires_grad)
        if keep and known is not None and name in ("weight", "bias") and known.shape == parameter.shape:
            setattr(new, name, copy.deepcopy(known, memo))
            kept.append(name)
    return kept


def _check(model: nn.Module, name: str, found: Found, family: NormFamily) -> None:
    """Raise ValueError if the layer cannot give way to a layer of this family."""
    known = family_of(found.layer)
    if found.kind is None and known is not None and known.kind == family.kind:
        raise ValueError(
            f"layer '{name}' ({type(found.layer).__name__}) is a {known.kind} that has a formula of its own, which a "
            "swap would lose; replace it by a plain norm first"
        )
    if found.site.num_dims > 1 and found.kind != family.kind:
        raise ValueError(
            f"{type(family).__name__} does not fit layer '{name}': it normalizes over several dimensions, "
            f"{tuple(found.layer.normalized_shape)}; only LayerNorm and RMSNorm of that shape can take its place"  # type: ignore[arg-type]
        )
    if family.needs_positions and found.site.channel_dim == -1 and is_time_first_at(model, name):
        raise ValueError(
            f"{type(family).__name__} does not fit layer '{name}', whose input is (T, B, D), since the attention "
            "beside it has batch_first=False: build the model with batch_first=True, or take a norm of one position, "
            "such as LayerNorm"
        )


def swap_norms(model: nn.Module, norm: NormFamily) -> Replaced:
    """Replace every norm in `model` by `norm`, in place.

    The replaced layer decides the layout: `(N, C, *)` for a batch, group or instance norm, `(..., D)` for a layer or
    RMS norm. A layer that is replaced by one of its own kind (torch's BatchNorm2d by ours) keeps its weights, running
    statistics and options. Any other new layer takes over eps, momentum, whether there is a weight and a bias, device,
    dtype and the training flag, unless `norm` sets them. It keeps the replaced layer's weight and bias where it has
    them, too, unless the replaced layer has a formula of its own (Gemma's RMSNorm scales by 1 + weight). What else it
    has starts afresh: running statistics, or the alpha of DynamicTanh.

    Hooks, shared modules and shared parameters stay. A weight or a bias that was frozen stays frozen. Another parameter
    of a new layer is frozen if the replaced layer had parameters and all were frozen. The padding mask of a call, an
    `attention_mask` or the mask of torch's encoders, is passed to the norms whose statistics run over positions.

    A norm that no other norm can stand in for is left alone, and a warning names it: one that takes a gate or a
    condition as a further input, whose weight is a buffer (FrozenBatchNorm2d), or whose size is not known.

    Returns:
        The replaced layers by name; `left_alone`, `kept` and `afresh` say what else became of the norms.
        `model.set_submodule(name, layer)` for each replaced layer undoes the swap.

    Raises:
        ValueError: a norm does not fit a layer (the message names the layer and a value that fits), a layer would lose
            something (a parametrized or pruned weight, a formula or layers of its own), padding would count in a text
            model's statistics, or `model` is itself a norm, which cannot be replaced in place. The model is unchanged.
    """
    if is_norm(model):
        raise ValueError(
            f"the model is itself a norm ({type(model).__name__}), which cannot be replaced in place: "
            "build the layer with NORMS[name](num_features, channel_dim)"
        )
    norms = dict(named_norms(model, remove_duplicate=False))
    examined = {layer: examine(name, layer) for name, layer in norms.items()}
    left_alone = {name: found for name, layer in norms.items() if isinstance(found := examined[layer], str)}
    places = {name: found for name, layer in norms.items() if isinstance(found := examined[layer], Found)}
    for name, found in places.items():
        _check(model, name, found, norm)
    norm.check({name: found.site for name, found in places.items() if norm.changes(found.kind)})

    default = next((p for p in model.parameters() if p.is_floating_point()), None)
    memo: dict[int, Any] = {}  # one for all copies, so that tied parameters stay tied
    new: dict[nn.Module, tuple[nn.Module, Collection[str]]] = {}
    for name, found in places.items():
        if found.layer not in new:
            new[found.layer] = _replacement(name, found, norm, default, memo)
    kept: list[str] = []
    afresh: list[str] = []
    for name, found in places.items():
        layer, taken = new[found.layer]
        for key in layer.state_dict():
            (kept if key in taken else afresh).append(f"{name}.{key}")
    replaced = {name: found.layer for name, found in places.items()}
    for name, found in places.items():
        model.set_submodule(name, new[found.layer][0])
    leave_padding_out(model, norm, replaced)
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer):
            # The fused inference path of this class reads the norms' weights and computes a layer norm itself. Without
            # a known activation the class calls its layers.
            module.activation_relu_or_gelu = 0
        elif isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False  # only the fused path takes nested tensors
    if left_alone:
        warnings.warn(f"{type(norm).__name__} leaves norms alone: {by_reason(left_alone)}", stacklevel=2)
    return Replaced(replaced, left_alone, kept, afresh)
