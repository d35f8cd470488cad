"""No network, and quiet libraries, in every test and in the processes they start."""

import os
from collections.abc import Iterator

os.environ["OMP_NUM_THREADS"] = "1"  # of two processes with two threads each, both are slower than one alone

import lightning  # noqa: F401 (before pytest captures the streams that its log handlers keep)
import pytest
import torch.distributed

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["JSONARGPARSE_DEPRECATION_WARNINGS"] = "off"  # Lightning's own calls


@pytest.fixture(autouse=True)
def leave_no_trace() -> Iterator[None]:
    """What a run in this process sets for its processes (seed, rank, port) ends with the test."""
    before = dict(os.environ)
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    os.environ.clear()
    os.environ.update(before)
