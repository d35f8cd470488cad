"""What a model takes as its norm: a family, which builds the layer that fits each place."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from src.norms.spec import to_text, without_none


@dataclass(frozen=True)
class NormSite:
    """A place for a norm in a model, with what a layer put there keeps unless its family says otherwise."""

    num_features: int
    channel_dim: int = 1  # 1 for (N, C, *), -1 for (..., D)
    eps: float | None = None  # None: the layer's own default
    momentum: float | None = 0.1
    affine: bool = True
    bias: bool = True


class NormFamily(ABC):
    """A kind of norm with its options, free of any size: what `NORMS` holds and a config's `norm:` names.

    `family(num_features, channel_dim)` builds one layer; `swap_norms(model, family)` one for each place in a model.
    """

    kind: str
    """Families of one kind compute the same, so that weights and running statistics pass between them."""

    stands_in: Mapping[str, type[nn.Module]] = {}
    """The layer that takes over from one of the same kind, by the class name that ours and torch's share."""

    overrides: Mapping[str, Any] = {}
    """Attributes that a layer taken over from the same kind gets, because the user gave them."""

    needs_positions: bool = False
    """Whether it takes statistics over the positions of one sample, which a vector `(B, D)` has none of."""

    def __call__(self, num_features: int, channel_dim: int = 1) -> nn.Module:
        """The layer for `(N, C, *)` maps, `channel_dim=1`, or for `(..., D)` tokens, `channel_dim=-1`."""
        if channel_dim not in (1, -1):
            raise ValueError(f"channel_dim={channel_dim}: expected 1, for (N, C, *), or -1, for (..., D)")
        site = NormSite(num_features, channel_dim)
        self.check({"": site})
        return self.build(site)

    @abstractmethod
    def build(self, site: NormSite) -> nn.Module:
        """A fresh layer for this place."""

    def check(self, sites: Mapping[str, NormSite]) -> None:  # noqa: B027 (most norms fit every place)
        """Raise ValueError for the first of a model's places, by their names, that this norm does not fit."""

    def changes(self, kind: str | None) -> bool:
        """Whether what the user gave has to be checked against a layer of this kind, too."""
        return kind != self.kind or bool(self.overrides)

    def options_at(self, site: NormSite) -> dict[str, Any]:
        """Arguments of a fresh layer: the place's eps, unless the user gave one, and what else the user gave."""
        return {**given(eps=site.eps), **self.overrides}

    def set_options(self, layer: nn.Module) -> None:
        """Give a layer of this kind what the user gave, and leave the rest of it as it is."""
        for option, value in self.overrides.items():
            setattr(layer, option, value)

    def spec(self) -> dict[str, Any]:
        """The family as plain values, the way a config writes it."""
        options = {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}
        return {"class_path": f"{type(self).__module__}.{type(self).__qualname__}", "init_args": options}

    def __repr__(self) -> str:
        return to_text(without_none(self.spec()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NormFamily) and self.spec() == other.spec()

    def __hash__(self) -> int:
        return hash(repr(self))


def given(**options: Any) -> dict[str, Any]:
    """The options that are not None: those that the user gave."""
    return {name: value for name, value in options.items() if value is not None}
