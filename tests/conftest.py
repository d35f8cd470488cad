"""Every test, and every process that a test starts, runs offline and with quiet libraries."""

import os
from collections.abc import Iterator

os.environ["OMP_NUM_THREADS"] = "1"  # two processes with two threads each are both slower than a single one

import lightning  # noqa: F401 (before pytest captures the streams that its log handlers keep)
import pytest
import torch.distributed

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["JSONARGPARSE_DEPRECATION_WARNINGS"] = "off"  # Lightning itself calls deprecated functions


@pytest.fixture(autouse=True)
def leave_no_trace() -> Iterator[None]:
    """After each test, undo the environment variables (seed, rank, port) and the process group of its runs."""
    before = dict(os.environ)
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    os.environ.clear()
    os.environ.update(before)
