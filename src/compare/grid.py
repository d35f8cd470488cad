"""The grid of a comparison: its axes, its arms, and their flags of train.py."""

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from src.norms.spec import from_text, is_spec, options_of, to_text

NAMED = {"model.norm": "norm", "data.batch_size": "batch_size", "model.recipe.lr": "lr"}
"""The options of train.py that have a flag of their own in compare.py, with the names of their columns."""


def split(values: Any) -> list[Any]:
    """A list of values: `BatchNorm,GroupNorm(num_groups=8)` as two, a list unchanged, any other value as one."""
    if isinstance(values, str):
        return [value.strip() for value in re.findall(r"(?:[^,(]|\([^)]*\))+", values)]
    return list(values) if isinstance(values, list) else [values]


def parse_norm(value: Any) -> Any:
    """A norm in the form of a config: `GroupNorm(num_groups=8)` as a class with options, any other value unchanged."""
    if not isinstance(value, str):
        return value
    return None if value == "null" else from_text(value) or value


def flag_value(value: Any) -> str:
    """A value as a flag of train.py takes it."""
    return value if isinstance(value, str) else json.dumps(value)


def flags_of(option: str, value: Any) -> list[str]:
    """The flags of train.py that set an option."""
    if not is_spec(value):
        return [f"--{option}={flag_value(value)}"]
    own = [f"--{option}.{name}={flag_value(each)}" for name, each in options_of(value).items()]
    return [f"--{option}={value['class_path']}", *own]


def label_of(value: Any) -> str:
    """A value as tables show it: a class with its options as `GroupNorm(num_groups=8)`, without them as `GroupNorm`."""
    return to_text(value, flag_value).removesuffix("()") if is_spec(value) else flag_value(value)


@dataclass(frozen=True)
class Axis:
    """An option of train.py with the values that are compared."""

    option: str
    values: tuple[Any, ...]
    name: str

    @property
    def labels(self) -> list[str]:
        return [label_of(value) for value in self.values]


def make_axes(varied: Mapping[str, Any]) -> list[Axis]:
    """An axis for each option. Its name is the last part of the option's name, or the whole if two have the same part.

    Raises:
        ValueError: an axis is empty, or has a value twice.
    """
    short = {option: NAMED.get(option, option.rsplit(".", 1)[-1]) for option in varied}
    names = list(short.values())
    axes = []
    for option, given in varied.items():
        values = split(given)
        axis = Axis(option, tuple(values), short[option] if names.count(short[option]) == 1 else option)
        if not values:
            raise ValueError(f"{option} has no values to compare: give one or more")
        if twice := next((label for label in axis.labels if axis.labels.count(label) > 1), None):
            raise ValueError(f"{option} has the value {twice} twice, and its runs would be the same: give it once")
        axes.append(axis)
    return axes


@dataclass(frozen=True)
class Arm:
    """One combination of values, which is trained with each seed."""

    labels: Mapping[str, str]
    """The value of each axis, by the axis's name."""

    flags: tuple[str, ...]

    @property
    def name(self) -> str:
        """`GroupNorm(num_groups=8), batch_size=16`"""
        texts = [label if name == "norm" else f"{name}={label}" for name, label in self.labels.items()]
        return ", ".join(texts) or "as configured"

    @property
    def folder(self) -> str:
        """The name of the arm's folder: `name` with only the characters that shells and TensorBoard do not change."""
        return re.sub(r"[^\w.=+-]+", "_", self.name).strip("_")


def make_arms(axes: Sequence[Axis], fixed: Mapping[str, Any]) -> list[Arm]:
    """All combinations; the last axis changes fastest.

    Raises:
        ValueError: two arms would have the same folder.
    """
    arms: list[Arm] = []
    folders: dict[str, str] = {}
    for values in itertools.product(*(axis.values for axis in axes)):
        chosen = {axis.option: value for axis, value in zip(axes, values, strict=True)}
        # A class must come before its options, in whatever order the user gave them.
        options = sorted({**fixed, **chosen}.items(), key=lambda option: option[0].count("."))
        flags = [flag for option, value in options for flag in flags_of(option, value)]
        arm = Arm({axis.name: label_of(chosen[axis.option]) for axis in axes}, tuple(flags))
        if arm.folder in folders:
            raise ValueError(f"'{arm.name}' and '{folders[arm.folder]}' would both lie in the folder {arm.folder}")
        folders[arm.folder] = arm.name
        arms.append(arm)
    return arms
