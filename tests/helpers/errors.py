"""Test an error by its whole message."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def error_is(kind: type[Exception], message: str) -> Iterator[None]:
    """Assert that the block raises an error of this kind with exactly this message."""
    with pytest.raises(kind) as caught:
        yield
    assert str(caught.value) == message
