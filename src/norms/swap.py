"""Surgery: put one norm in the place of every norm of a model."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from inspect import Parameter, signature

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from src.norms import dynamic_tanh, identity, rms_norm
from src.norms.family import NormFamily, NormSite
from src.norms.layer_norm import LayerNorm
from src.norms.padding import share_padding_mask

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


def _examine(name: str, layer: nn.Module) -> Found:
    if isinstance(layer, (nn.SyncBatchNorm, nn.modules.lazy.LazyModuleMixin)):
        raise ValueError(
            f"layer '{name}' is a {type(layer).__name__}, which cannot be swapped: swap the norms of the model "
            "before its batch norms are converted for many processes, and after lazy layers have seen an input"
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
        "RMSNorm": lambda: rms_norm.RMSNorm(site.num_features, eps=eps),
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
    _like(ours, next(theirs.parameters()), theirs.training)
    ours.load_state_dict(theirs.state_dict())
    num_features = next(theirs.parameters()).numel()
    probe = torch.linspace(-2, 3, 3 * num_features).sin().reshape(1, 3, num_features).to(next(theirs.parameters()))
    return torch.allclose(theirs(probe), ours(probe), rtol=1e-2 if probe.dtype.itemsize < 4 else 1e-5)


def _like(layer: nn.Module, tensor: torch.Tensor | None, training: bool) -> nn.Module:
    if tensor is not None:
        layer.to(device=tensor.device, dtype=tensor.dtype)
    return layer.train(training)


def _replacement(
    name: str, found: Found, family: NormFamily, default: torch.Tensor | None, memo: dict[int, object]
) -> nn.Module:
    if found.kind == family.kind and found.class_name in family.stands_in:
        # A copy of another class: parameters, buffers, hooks and flags stay what they were, to the last bit.
        layer = copy.deepcopy(found.layer, memo)
        layer.__class__ = family.stands_in[found.class_name]
        for option, value in family.overrides.items():
            setattr(layer, option, value)
        return layer
    if found.site.channel_dim == 0:
        raise ValueError(
            f"{type(family).__name__} does not fit layer '{name}': it normalizes over several dimensions, "
            f"{tuple(found.layer.normalized_shape)}; only LayerNorm and RMSNorm of that shape can take its place"  # type: ignore[arg-type]
        )
    layer = family.build(found.site)
    like = next((t for t in (*found.layer.parameters(), *found.layer.buffers()) if t.is_floating_point()), default)
    return _like(layer, like, found.layer.training)


def swap_norms(model: nn.Module, norm: NormFamily) -> dict[str, nn.Module]:
    """Put `norm` in the place of every norm in `model`, in place.

    What is replaced tells the layout: `(N, C, *)` where a batch, group or instance norm stood, `(..., D)` where a
    layer or RMS norm did. A layer of the same kind (torch's BatchNorm2d by ours) keeps weights, running statistics,
    options and hooks; any other starts afresh and keeps eps, momentum, whether there is a weight and a bias, device,
    dtype and the training flag, unless `norm` sets them. Modules and parameters that were shared stay shared. For a
    model that takes an `attention_mask`, the mask reaches the norms whose statistics run over positions.

    Returns:
        What was replaced, by name: `model.set_submodule(name, layer)` for each puts it back.

    Raises:
        ValueError: a norm does not fit a layer (the message names the layer and a value that fits), or `model` is
            itself a norm, which cannot be replaced in place. The model is then as it was.
    """
    if is_norm(model):
        raise ValueError(
            f"the model is itself a norm ({type(model).__name__}), which cannot be replaced in place: "
            "build the layer with NORMS[name](num_features, channel_dim)"
        )
    replaced = {name: m for name, m in model.named_modules(remove_duplicate=False) if is_norm(m)}
    found = {layer: _examine(name, layer) for name, layer in replaced.items()}
    norm.check({name: found[layer].site for name, layer in replaced.items() if norm.changes(found[layer].kind)})

    default = next((p for p in model.parameters() if p.is_floating_point()), None)
    memo: dict[int, object] = {}  # one for all, so that tied parameters stay tied
    new: dict[nn.Module, nn.Module] = {}
    for name, layer in replaced.items():
        if layer not in new:
            new[layer] = _replacement(name, found[layer], norm, default, memo)
    for name, layer in replaced.items():
        model.set_submodule(name, new[layer])
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer):
            # Its fused inference path reads the norms' weights and computes a layer norm itself; without a known
            # activation it calls its parts.
            module.activation_relu_or_gelu = 0
        elif isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False  # which that path alone understands
    share_padding_mask(model)
    return replaced
