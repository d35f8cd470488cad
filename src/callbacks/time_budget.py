"""What takes long is done seldom."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

FIRST = 60.0
SHARE = 0.01


class Seldom:
    """Says when something is due: after a minute, and then so that it takes at most a hundredth of the time."""

    def __init__(self) -> None:
        self._due = time.monotonic() + FIRST

    def is_due(self) -> bool:
        """Whether the last time is long enough ago."""
        return time.monotonic() >= self._due

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Around what is done."""
        start = time.monotonic()
        yield
        end = time.monotonic()
        self._due = end + (end - start) / SHARE
