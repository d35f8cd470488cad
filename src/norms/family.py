"""The base class of norm families: a family builds the norm layer for each place in a model."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import nn

from src.norms.spec import to_text, without_none

Number = TypeVar("Number", int, float)
Layer = type[nn.Module]


@dataclass(frozen=True)
class NormSite:
    """A place for a norm in a model, and the settings of a new layer there unless its family sets others."""

    num_features: int
    channel_dim: int = 1  # 1 for (N, C, *), -1 for (..., D)
    eps: float | None = None  # None: the layer's own default
    momentum: float | None = 0.1
    affine: bool = True
    bias: bool = True
    num_dims: int = 1  # trailing dimensions that are normalized together: 3 for LayerNorm((C, H, W))


class NormFamily(ABC):
    """A norm with its options and without a size: an entry of `NORMS`, and the value of `norm:` in a config.

    `family(num_features, channel_dim)` builds one layer; `swap_norms(model, family)` builds one for each place in a
    model. A subclass names its layers, takes its options in `__init__`, and builds a layer in `layer_at`. Its docstring
    becomes the help of the flag.
    """

    kind: str
    """Families of one kind compute the same numbers, so weights and running statistics carry over between them."""

    base: Layer
    """A layer of any model that inherits from this class is recognized as this kind."""

    base_channel_dim: int = -1
    """The channel's dimension of such a layer, unless it has an attribute `channel_dim`."""

    on_maps: Layer
    """The layer for maps `(N, C, *)`."""

    on_tokens: Layer
    """The layer for tokens `(..., D)`."""

    drop_ins: tuple[Layer, ...] = ()
    """Further layers, each of which replaces a layer of the same kind and class name: BatchNorm2d replaces torch's."""

    needs_positions: bool = False
    """Whether the statistics run over the positions of one sample. A vector `(B, D)` has none."""

    overrides: Mapping[str, Any] = {}
    """The options that the user gave. They become attributes of a replaced layer of the same kind."""

    def __call__(self, num_features: int, channel_dim: int = 1) -> nn.Module:
        """The layer for maps `(N, C, *)` with `channel_dim=1`, or for tokens `(..., D)` with `channel_dim=-1`.

        Raises:
            ValueError: another `channel_dim`, or a size that does not fit this norm.
        """
        if channel_dim not in (1, -1):
            raise ValueError(f"channel_dim={channel_dim}: expected 1, for (N, C, *), or -1, for (..., D)")
        site = NormSite(num_features, channel_dim)
        self.check({"": site})
        return self.build(site)

    @abstractmethod
    def layer_at(self, site: NormSite) -> nn.Module:
        """A new layer for this place; it may have a bias even where the place has none."""

    def build(self, site: NormSite) -> nn.Module:
        """A new layer for this place."""
        layer = self.layer_at(site)
        if not site.bias and getattr(layer, "bias", None) is not None:
            layer.register_parameter("bias", None)
        return layer

    def layer_class(self, site: NormSite) -> Layer:
        """The class of a new layer for this place."""
        return self.on_tokens if site.channel_dim == -1 else self.on_maps

    def same_named(self, class_name: str) -> Layer | None:
        """The class that replaces a layer of the same kind whose class has this name, or None."""
        return next((c for c in (self.on_maps, self.on_tokens, *self.drop_ins) if c.__name__ == class_name), None)

    def check(self, sites: Mapping[str, NormSite]) -> None:  # noqa: B027 (most norms fit every place)
        """Raise ValueError if this norm does not fit a place; the message names the first such place."""

    def changes(self, kind: str | None) -> bool:
        """Whether replacing a layer of this kind changes the layer. If so, `check` has to test its place."""
        return kind != self.kind or bool(self.overrides)

    def options_at(self, site: NormSite) -> dict[str, Any]:
        """Keyword arguments of a new layer: the place's eps, and the options that the user gave."""
        return {**given_options(eps=site.eps), **self.overrides}

    def set_options(self, layer: nn.Module) -> None:
        """Set the options that the user gave on a layer of this kind."""
        for option, value in self.overrides.items():
            setattr(layer, option, value)

    def spec(self) -> dict[str, Any]:
        """The family as plain values, as a config writes it."""
        options = {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}
        return {"class_path": f"{type(self).__module__}.{type(self).__qualname__}", "init_args": options}

    def __repr__(self) -> str:
        return to_text(without_none(self.spec()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NormFamily) and self.spec() == other.spec()

    def __hash__(self) -> int:
        return hash(repr(self))


def given_options(**options: Any) -> dict[str, Any]:
    """The options that the user gave: those that are not None."""
    return {name: value for name, value in options.items() if value is not None}


def positive(name: str, value: Number | None) -> Number | None:
    """The value of an option, or None where the user did not give it.

    Raises:
        ValueError: the value is not above 0.
    """
    if value is not None and value <= 0:
        raise ValueError(f"{name}={value}: expected a number above 0")
    return value
