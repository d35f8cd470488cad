"""Finding the norms of a model, and saying what each computes and what a layer in its place must fit."""

from collections.abc import Callable
from dataclasses import dataclass
from inspect import Parameter, signature

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from src.norms import dynamic_tanh, identity
from src.norms.family import NormSite
from src.norms.layer_norm import LayerNorm
from src.norms.rms_norm import RMSNorm

# base class -> kind, and the channel's dimension unless the layer names another
RECOGNIZED: dict[type[nn.Module], tuple[str, int]] = {
    _BatchNorm: ("BatchNorm", 1),
    _InstanceNorm: ("InstanceNorm", 1),
    nn.GroupNorm: ("GroupNorm", 1),
    nn.LayerNorm: ("LayerNorm", -1),
    nn.RMSNorm: ("RMSNorm", -1),
    dynamic_tanh.DynamicTanh: ("DynamicTanh", -1),
    identity.Identity: ("Identity", -1),
}


@dataclass(frozen=True)
class Found:
    """A norm in a model: what it computes and the place it takes."""

    layer: nn.Module
    kind: str | None  # None: a library's own norm that computes none of the kinds known here
    site: NormSite
    class_name: str  # what ours and torch's call such a layer


def is_norm(module: nn.Module) -> bool:
    """Whether `module` is one of torch's norms, one of ours, or one that a library wrote itself (`LlamaRMSNorm`)."""
    return isinstance(module, tuple(RECOGNIZED)) or _is_library_norm(module)


def _is_library_norm(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return (
        type(module).__name__.endswith(("LayerNorm", "RMSNorm", "LayerNorm2d"))
        and isinstance(weight, nn.Parameter)
        and weight.ndim == 1
        and not any(module.children())
    )


def examine(name: str, layer: nn.Module) -> Found:
    """What the norm `layer` computes and the place it takes; a ValueError that names it if it cannot be swapped."""
    if isinstance(layer, nn.modules.lazy.LazyModuleMixin):
        raise ValueError(
            f"layer '{name}' is a {type(layer).__name__}, which cannot be swapped before it has seen an input"
        )
    for base, (kind, channel_dim) in RECOGNIZED.items():
        if isinstance(layer, base):
            return _examine_known(name, layer, kind, channel_dim)
    return _examine_library_norm(name, layer)


EXPORTERS = ("torch.nn.", "src.norms.")


def _known_class(layer_class: type[nn.Module]) -> type[nn.Module] | None:
    """The class of torch's or ours that a layer's class is, or whose forward it inherits; None where it has its own."""
    forward = next(c for c in layer_class.__mro__ if "forward" in vars(c))
    known = (c for c in layer_class.__mro__ if c.__module__.startswith(EXPORTERS) and not c.__name__.startswith("_"))
    return next(known) if forward.__module__.startswith(EXPORTERS) else None


def _examine_known(name: str, layer: nn.Module, kind: str, channel_dim: int) -> Found:
    channel_dim = getattr(layer, "channel_dim", channel_dim)
    known_class = _known_class(type(layer))
    if type(layer).__name__ == "LayerNorm2d" or getattr(layer, "data_format", None) == "channels_first":
        channel_dim, class_name = 1, "ChannelLayerNorm"  # as torchvision, transformers and timm write ConvNeXt's
    elif getattr(layer, "data_format", None) == "channels_last":
        class_name = "LayerNorm"
    elif known_class is not None:
        class_name = known_class.__name__
    else:
        raise ValueError(
            f"layer '{name}' ({type(layer).__name__}) is a {kind} that computes something of its own, which a swap "
            "would lose; replace it by a plain norm first"
        )
    shape = getattr(layer, "normalized_shape", None)
    if shape is not None and len(shape) > 1:
        channel_dim = 0  # its features span several dimensions: only its own kind can follow
    weight = getattr(layer, "weight", None)
    site = NormSite(
        num_features=(
            getattr(layer, "num_features", None) or getattr(layer, "num_channels", None) or shape[0]  # type: ignore[index]
        ),
        channel_dim=channel_dim,
        eps=getattr(layer, "eps", None),
        momentum=getattr(layer, "momentum", 0.1),
        affine=weight is not None if kind != "Identity" else True,
        # An RMS norm has no bias to say whether one is wanted.
        bias=weight is None or getattr(layer, "bias", None) is not None or kind in ("RMSNorm", "Identity"),
    )
    return Found(layer, kind, site, class_name)


def _examine_library_norm(name: str, layer: nn.Module) -> Found:
    required = [p for p in signature(layer.forward).parameters.values() if p.default is Parameter.empty]
    if len(required) != 1:
        raise ValueError(f"layer '{name}' ({type(layer).__name__}) takes more than one input and cannot be swapped")
    assert isinstance(layer.weight, nn.Parameter)
    eps = next((getattr(layer, n) for n in ("variance_epsilon", "eps", "epsilon") if hasattr(layer, n)), None)
    first = getattr(layer, "data_format", "") == "channels_first" or type(layer).__name__.endswith("2d")
    site = NormSite(layer.weight.numel(), 1 if first else -1, eps)
    stand_in: dict[str, Callable[[], nn.Module]] = {
        "RMSNorm": lambda: RMSNorm(site.num_features, eps=eps),
        "LayerNorm": lambda: LayerNorm(site.num_features, eps=1e-5 if eps is None else eps),
    }
    for kind, build in stand_in.items():
        twin = build()
        if site.channel_dim == -1 and _computes_the_same(layer, twin):
            return Found(twin, kind, site, kind)
    return Found(layer, None, site, type(layer).__name__)


@torch.no_grad()
def _computes_the_same(theirs: nn.Module, ours: nn.Module) -> bool:
    """Whether `ours`, given the state of `theirs`, gives the same output: Gemma's RMSNorm scales by 1 + weight."""
    if ours.state_dict().keys() != theirs.state_dict().keys() or any(p.is_meta for p in theirs.parameters()):
        return False
    ours.to(next(theirs.parameters())).train(theirs.training)
    ours.load_state_dict(theirs.state_dict())
    num_features = next(theirs.parameters()).numel()
    probe = torch.linspace(-2, 3, 3 * num_features).sin().reshape(1, 3, num_features).to(next(theirs.parameters()))
    return torch.allclose(theirs(probe), ours(probe), rtol=1e-2 if probe.dtype.itemsize < 4 else 1e-5)
