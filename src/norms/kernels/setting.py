"""The setting that chooses kernels: an environment variable, or a context that overrides it."""

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
    """The value of `use_kernels` inside its block, else of LIGHTNING_NORMS_KERNELS.

    auto, the default: use a kernel if one fits. off: use no kernel. triton: use only the Triton kernels, which Triton's
    interpreter runs on CPU. The environment is read once.

    Raises:
        ValueError: the variable has another value.
    """
    if _in_context:
        return _in_context[-1]
    return _of_environment()


@contextmanager
def use_kernels(flag: bool) -> Iterator[None]:
    """In the block, use kernels where they fit (True), or only the formula (False), whatever the environment says."""
    _in_context.append("auto" if flag else "off")
    try:
        yield
    finally:
        _in_context.pop()
