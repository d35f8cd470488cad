"""The layers under test: each drop-in class, and each family in each layout."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any

import torch
from torch import nn

import src.norms
from tests.norms.conform.cases import Case, drop_in_cases, family_cases

DROP_INS = (
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "LayerNorm",
    "RMSNorm",
    "GroupNorm",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "InstanceNorm3d",
)


@dataclass(frozen=True)
class Subject:
    """A kind of layer under test and, where torch has one, the torch layer that it has to match."""

    name: str
    ours: Callable[..., nn.Module]
    theirs: Callable[..., nn.Module] | None
    cases: tuple[Case, ...]
    channel_dim: int = 1
    norms: ModuleType = src.norms  # the package that ours comes from

    @cached_property
    def is_drop_in(self) -> bool:
        return isinstance(self.ours, type)

    @cached_property
    def has_running_statistics(self) -> bool:
        layers = (case.build(self.ours, torch.float32) for case in self.cases)
        return any(getattr(layer, "running_mean", None) is not None for layer in layers)

    def reference(self) -> Callable[..., nn.Module]:
        """Torch's layer, or ours if torch has none."""
        return self.theirs or self.ours


def builder(family: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """The family's layers under a constructor's signature."""

    def build(num_features: int, channel_dim: int, dtype: torch.dtype | None = None, **factory: Any) -> nn.Module:
        return family(num_features, channel_dim).to(dtype=dtype, **factory)

    return build


def drop_in(name: str, norms: ModuleType = src.norms) -> Subject:
    """`norms.BatchNorm2d` beside `torch.nn.BatchNorm2d`."""
    channel_dim = -1 if name in ("LayerNorm", "RMSNorm") else 1
    return Subject(name, getattr(norms, name), getattr(nn, name), drop_in_cases(name), channel_dim, norms)


def in_layout(name: str, channel_dim: int, norms: ModuleType = src.norms) -> Subject:
    """The family `name` on maps or tokens, beside the family of torch's layer if there is one."""
    theirs = norms.NORMS.get(f"Torch{name}")
    layout = "(N, C, *)" if channel_dim == 1 else "(..., D)"
    cases = tuple(family_cases(channel_dim))
    ours = builder(norms.NORMS[name])
    return Subject(f"{name} {layout}", ours, builder(theirs) if theirs else None, cases, channel_dim, norms)


def subjects(names: Iterable[str], norms: ModuleType = src.norms) -> list[Subject]:
    """The subjects of these families: the drop-in classes of that kind, and both layouts."""
    return [
        subject
        for name in names
        for subject in (
            *(drop_in(cls, norms) for cls in DROP_INS if cls.rstrip("123d") == name),
            *(in_layout(name, channel_dim, norms) for channel_dim in (1, -1)),
        )
    ]


def plain(subject: Subject, **options: Any) -> Case:
    """The layer with these options and otherwise defaults, and an input with several values in each mean."""
    if not subject.is_drop_in:
        return subject.cases[0]
    shapes = {"1d": (4, 6, 5), "2d": (4, 6, 5, 3), "3d": (2, 6, 3, 4, 2)}
    arguments = {"GroupNorm": (3, 6), "LayerNorm": (10,), "RMSNorm": (10,)}.get(subject.name, (6,))
    shape = {"GroupNorm": (4, 6, 5, 3)}.get(subject.name) or shapes.get(subject.name[-2:], (4, 6, 10))
    random = torch.Generator().manual_seed(2)
    return Case("plain", arguments, options, torch.randn(shape, generator=random, dtype=torch.float64) * 2 + 1)


def pair(subject: Subject, case: Case, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, nn.Module]:
    return case.build(subject.ours, dtype), case.build(subject.reference(), dtype)
