"""Run an expensive action for at most about 1% of the time."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

FIRST = 60.0
"""Seconds until the action is first due."""

SHARE = 0.01
"""The largest share of the time that the action may take."""


class TimeBudget:
    """Says when an expensive action is due: first after a minute, then so that it takes at most 1% of the time."""

    def __init__(self) -> None:
        self._due = time.monotonic() + FIRST

    def is_due(self) -> bool:
        """Whether the action may run again."""
        return time.monotonic() >= self._due

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Measure the action, which runs inside the `with` block."""
        start = time.monotonic()
        yield
        end = time.monotonic()
        self._due = end + (end - start) / SHARE
