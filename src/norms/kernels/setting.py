"""Which kernels are used: the environment's word, and a context's over it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

VARIABLE = "LIGHTNING_NORMS_KERNELS"
VALUES = ("auto", "off", "triton")

_in_context: list[str] = []


@cache
def _of_environment() -> str:
    value = os.environ.get(VARIABLE, "auto")
    if value not in VALUES:
        raise ValueError(f"{VARIABLE}={value}: expected one of {', '.join(VALUES)}")
    return value


def setting() -> str:
    """What LIGHTNING_NORMS_KERNELS says, or `use_kernels`.

    auto, the default: a kernel is taken where one fits. off: none. triton: of the kernels only those in Triton, which
    its interpreter runs on CPU. The environment is read once.

    Raises:
        ValueError: the variable holds something else.
    """
    if _in_context:
        return _in_context[-1]
    return _of_environment()


@contextmanager
def use_kernels(flag: bool) -> Iterator[None]:
    """Within the block, take kernels where they fit, or compute everything by the formula; whatever the environment."""
    _in_context.append("auto" if flag else "off")
    try:
        yield
    finally:
        _in_context.pop()
