"""Find the norms of a model, and for each norm the formula that it computes and the place that it takes."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import nn

from src.norms.computed import check_plain_parameters
from src.norms.families import NORMS
from src.norms.family import Layer, NormFamily, NormSite
from src.norms.library_norm import is_library_norm, num_features, takes_more, why_left_alone
from src.norms.trial import computes_the_same, takes

RECOGNIZED: dict[Layer, NormFamily] = {family.base: family for family in NORMS.values()}
"""A family of each kind, by the class from which the layers of that kind inherit."""

OURS = {layer for family in NORMS.values() for layer in (family.on_maps, family.on_tokens, *family.drop_ins)}


@dataclass(frozen=True)
class Found:
    """A norm in a model: what it computes and the place it takes."""

    layer: nn.Module
    kind: str | None  # None: a formula of its own, which is none of the kinds known here
    site: NormSite
    class_name: str | None  # the name of a class here and in torch, if it works with the attributes of this layer


def is_norm(module: nn.Module) -> bool:
    """Whether `module` is a norm of torch's, of a library's own (`LlamaRMSNorm`), or a layer of a family of `NORMS`."""
    return family_of(module) is not None or is_library_norm(module)


def named_norms(model: nn.Module, remove_duplicate: bool = True) -> Iterator[tuple[str, nn.Module]]:
    """The norms of the activations in `model`. A norm of a weight, which is a parametrization, is none of them."""
    for name, module in model.named_modules(remove_duplicate=remove_duplicate):
        if is_norm(module) and "parametrizations" not in name.split("."):
            yield name, module


def family_of(layer: nn.Module) -> NormFamily | None:
    """A family of the kind that `layer` inherits from, or None."""
    return next((family for base, family in RECOGNIZED.items() if isinstance(layer, base)), None)


def examine(name: str, layer: nn.Module) -> Found | str:
    """What the norm `layer` computes, and its place; or the reason why a swap has to leave it alone.

    Raises:
        ValueError: the layer cannot be swapped; the message gives its `name`.
    """
    if isinstance(layer, nn.modules.lazy.LazyModuleMixin):
        raise ValueError(f"layer '{name}' is a {type(layer).__name__}, which cannot be swapped before its first input")
    check_plain_parameters(name, layer)
    family = family_of(layer)
    if family is None:
        return why_left_alone(layer) or _examine_library_norm(layer)
    if children := [child for child, module in layer.named_children() if not isinstance(module, nn.Identity)]:
        raise ValueError(
            f"layer '{name}' ({type(layer).__name__}) is a {family.kind} that has layers of its own "
            f"({', '.join(children)}), which a swap would lose; replace it by a plain norm and these layers first"
        )
    known = _known_class(type(layer))
    if type(layer).forward is known.forward and "forward" not in vars(layer):
        return Found(layer, family.kind, _site(layer, family), known.__name__)
    return takes_more(layer) or _examine_own_forward(layer, family, known)


def _known_class(layer_class: Layer) -> Layer:
    """The nearest base class that is torch's or ours."""

    def is_known(each: type) -> bool:
        return each in OURS or (each.__module__.startswith("torch.nn.") and not each.__name__.startswith("_"))

    return next(filter(is_known, layer_class.__mro__))


def _site(layer: nn.Module, family: NormFamily) -> NormSite:
    """The place of a layer with the attributes of torch's class."""
    shape: tuple[int, ...] = getattr(layer, "normalized_shape", ())
    return NormSite(
        num_features=getattr(layer, "num_features", None) or getattr(layer, "num_channels", None) or shape[0],
        channel_dim=getattr(layer, "channel_dim", family.base_channel_dim),
        eps=getattr(layer, "eps", None),
        momentum=getattr(layer, "momentum", 0.1),
        # A layer without such an attribute does not say whether a weight or a bias is wanted.
        affine=getattr(layer, "weight", None) is not None or not hasattr(layer, "weight"),
        bias=getattr(layer, "weight", None) is None or not hasattr(layer, "bias") or layer.bias is not None,
        num_dims=len(shape) or 1,
    )


def _examine_own_forward(layer: nn.Module, family: NormFamily, known: Layer) -> Found:
    """A layer of a known class with a `forward` of its own, such as timm's LayerNorm and LayerNorm2d."""
    site = _site(layer, family)
    features = getattr(layer, "normalized_shape", (site.num_features,))
    layouts = {known: site.channel_dim}
    if site.channel_dim == -1 and site.num_dims == 1 and (torchs := NORMS.get(f"Torch{family.kind}")):
        layouts[torchs.on_maps] = 1
    fitting = []
    for known_class, channel_dim in layouts.items():
        if computes_the_same(layer, known_class, features, channel_dim):
            fitting.append((known_class.__name__, channel_dim))
    if len(fitting) == 1 and "forward" not in vars(layer):
        class_name, channel_dim = fitting[0]
        return Found(layer, family.kind, replace(site, channel_dim=channel_dim), class_name)
    return Found(layer, None, replace(site, channel_dim=_channel_dim(layer, features, site.channel_dim)), None)


def _examine_library_norm(layer: nn.Module) -> Found:
    size = num_features(layer)
    assert size is not None
    eps = next((getattr(layer, n) for n in ("variance_epsilon", "eps", "epsilon") if hasattr(layer, n)), None)
    weight, bias = getattr(layer, "weight", None), getattr(layer, "bias", None)
    site = NormSite(size, _channel_dim(layer, (size,), -1), eps, affine=weight is not None)
    for kind, with_bias in (("RMSNorm", True), ("LayerNorm", bias is not None)):
        twin_site = replace(site, bias=with_bias)
        if computes_the_same(layer, NORMS[f"Torch{kind}"].build(twin_site), (size,), site.channel_dim):
            return Found(layer, kind, twin_site, None)
    return Found(layer, None, replace(site, bias=bias is not None or not hasattr(layer, "bias")), None)


def _channel_dim(layer: nn.Module, features: tuple[int, ...], default: int) -> int:
    """The layout that a layer takes. If it takes both or none, its attributes and its name decide."""
    on_tokens, on_maps = (takes(layer, features, channel_dim) for channel_dim in (-1, 1))
    if on_tokens != on_maps:
        return 1 if on_maps else -1
    says_maps = getattr(layer, "data_format", "") == "channels_first" or type(layer).__name__.endswith("2d")
    return 1 if says_maps else default
