"""A class with its options as plain values and as text.

Configs and checkpoints write a norm as its spec, `{"class_path": "GroupNorm", "init_args": {"num_groups": 8}}`.
Commands, tables and messages write `GroupNorm(num_groups=8)`. Classes other than norms are written the same way.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeGuard


def is_spec(value: Any) -> TypeGuard[Mapping[str, Any]]:
    """Whether a value is a class with its options as plain values."""
    return isinstance(value, Mapping) and "class_path" in value


def options_of(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a spec, by name."""
    return dict(spec.get("init_args") or {})


def without_none(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A spec with only the options that the user gave: None means not given."""
    options = {name: value for name, value in options_of(spec).items() if value is not None}
    return {"class_path": spec["class_path"], "init_args": options}


def to_text(spec: Mapping[str, Any], show: Callable[[Any], str] = repr) -> str:
    """`GroupNorm(num_groups=8)`, or `BatchNorm()` without options; `show` writes the value of an option."""
    options = ", ".join(f"{name}={show(value)}" for name, value in options_of(spec).items())
    return f"{spec['class_path'].rsplit('.', 1)[-1]}({options})"


def from_text(text: str) -> dict[str, Any] | None:
    """The spec in `GroupNorm(num_groups=8)`, its values as text; None if there are no parentheses."""
    found = re.fullmatch(r"(\w+)\((.*)\)", text)
    if not found:
        return None
    options = [option.partition("=") for option in found[2].split(",") if option.strip()]
    return {"class_path": found[1], "init_args": {name.strip(): value.strip() for name, _, value in options}}
