"""Whether kernels are used: the environment's word, and a context's over it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

VARIABLE = "LIGHTNING_NORMS_KERNELS"
VALUES = {"auto": True, "off": False}

_in_context: list[bool] = []


@cache
def _of_environment() -> bool:
    value = os.environ.get(VARIABLE, "auto")
    if value not in VALUES:
        raise ValueError(f"{VARIABLE}={value}: expected one of {', '.join(VALUES)}")
    return VALUES[value]


def enabled() -> bool:
    """Whether a kernel is taken where one fits, as it is unless LIGHTNING_NORMS_KERNELS=off or `use_kernels(False)`.

    The environment is read once.

    Raises:
        ValueError: the variable holds something else.
    """
    if _in_context:
        return _in_context[-1]
    return _of_environment()


@contextmanager
def use_kernels(flag: bool) -> Iterator[None]:
    """Within the block, take kernels where they fit, or compute everything by the formula; whatever the environment."""
    _in_context.append(flag)
    try:
        yield
    finally:
        _in_context.pop()
