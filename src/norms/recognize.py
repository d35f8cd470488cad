"""Find the norms of a model, and for each norm the formula that it computes and the place that it takes."""

from dataclasses import dataclass
from inspect import Parameter, signature

import torch
from torch import nn

from src.norms.families import NORMS
from src.norms.family import Layer, NormFamily, NormSite

RECOGNIZED: dict[Layer, NormFamily] = {family.base: family for family in NORMS.values()}
"""A family of each kind, by the class from which the layers of that kind inherit."""

OURS = {layer for family in NORMS.values() for layer in (family.on_maps, family.on_tokens, *family.drop_ins)}


@dataclass(frozen=True)
class Found:
    """A norm in a model: what it computes and the place it takes."""

    layer: nn.Module
    kind: str | None  # None: a library's own norm that computes none of the kinds known here
    site: NormSite
    class_name: str  # the name of such a class here and in torch


def is_norm(module: nn.Module) -> bool:
    """Whether `module` is a norm of torch's, of a library's own (`LlamaRMSNorm`), or a layer of a family of `NORMS`."""
    return family_of(module) is not None or _is_library_norm(module)


def family_of(layer: nn.Module) -> NormFamily | None:
    """A family of the kind that `layer` inherits from, or None."""
    return next((family for base, family in RECOGNIZED.items() if isinstance(layer, base)), None)


def _is_library_norm(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return (
        type(module).__name__.endswith(("LayerNorm", "RMSNorm", "LayerNorm2d"))
        and isinstance(weight, nn.Parameter)
        and weight.ndim == 1
        and not any(module.children())
    )


def examine(name: str, layer: nn.Module) -> Found:
    """What the norm `layer` computes, and its place.

    Raises:
        ValueError: the layer cannot be swapped; the message gives its `name`.
    """
    if isinstance(layer, nn.modules.lazy.LazyModuleMixin):
        raise ValueError(f"layer '{name}' is a {type(layer).__name__}, which cannot be swapped before its first input")
    family = family_of(layer)
    return _examine_library_norm(name, layer) if family is None else _examine_known(name, layer, family)


def _known_class(layer_class: Layer) -> Layer | None:
    """The nearest base class that is torch's or ours; None if the layer has a forward of its own."""

    def is_known(each: type) -> bool:
        return each in OURS or (each.__module__.startswith("torch.nn.") and not each.__name__.startswith("_"))

    known: Layer = next(filter(is_known, layer_class.__mro__))
    return known if layer_class.forward is known.forward else None


def _examine_known(name: str, layer: nn.Module, family: NormFamily) -> Found:
    channel_dim = getattr(layer, "channel_dim", family.base_channel_dim)
    known_class = _known_class(type(layer))
    if type(layer).__name__ == "LayerNorm2d" or getattr(layer, "data_format", None) == "channels_first":
        channel_dim, class_name = 1, "ChannelLayerNorm"  # the norm of ConvNeXt in torchvision, transformers and timm
    elif getattr(layer, "data_format", None) == "channels_last":
        class_name = "LayerNorm"
    elif known_class is not None:
        class_name = known_class.__name__
    else:
        raise ValueError(
            f"layer '{name}' ({type(layer).__name__}) is a {family.kind} that has a formula of its own, which a "
            "swap would lose; replace it by a plain norm first"
        )
    shape: tuple[int, ...] = getattr(layer, "normalized_shape", ())
    weight = getattr(layer, "weight", None)
    site = NormSite(
        num_features=getattr(layer, "num_features", None) or getattr(layer, "num_channels", None) or shape[0],
        channel_dim=channel_dim,
        eps=getattr(layer, "eps", None),
        momentum=getattr(layer, "momentum", 0.1),
        # A layer without such an attribute does not say whether a weight or a bias is wanted.
        affine=weight is not None or not hasattr(layer, "weight"),
        bias=weight is None or not hasattr(layer, "bias") or layer.bias is not None,
        num_dims=len(shape) or 1,
    )
    return Found(layer, family.kind, site, class_name)


def _examine_library_norm(name: str, layer: nn.Module) -> Found:
    required = [p for p in signature(layer.forward).parameters.values() if p.default is Parameter.empty]
    if len(required) != 1:
        raise ValueError(f"layer '{name}' ({type(layer).__name__}) takes more than one input and cannot be swapped")
    assert isinstance(layer.weight, nn.Parameter)
    eps = next((getattr(layer, n) for n in ("variance_epsilon", "eps", "epsilon") if hasattr(layer, n)), None)
    first = getattr(layer, "data_format", "") == "channels_first" or type(layer).__name__.endswith("2d")
    site = NormSite(layer.weight.numel(), 1 if first else -1, eps)
    for kind in ("RMSNorm", "LayerNorm"):
        twin = NORMS[kind].build(site)
        if site.channel_dim == -1 and _computes_the_same(layer, twin):
            return Found(twin, kind, site, kind)
    return Found(layer, None, site, type(layer).__name__)


@torch.no_grad()
def _computes_the_same(theirs: nn.Module, ours: nn.Module) -> bool:
    """Whether `ours` with the state of `theirs` gives the same output. Gemma's RMSNorm scales by 1 + weight instead."""
    if ours.state_dict().keys() != theirs.state_dict().keys() or any(p.is_meta for p in theirs.parameters()):
        return False
    ours.to(next(theirs.parameters())).train(theirs.training)
    ours.load_state_dict(theirs.state_dict())
    num_features = next(theirs.parameters()).numel()
    probe = torch.linspace(-2, 3, 3 * num_features).sin().reshape(1, 3, num_features).to(next(theirs.parameters()))
    return torch.allclose(theirs(probe), ours(probe), rtol=1e-2 if probe.dtype.itemsize < 4 else 1e-5)
