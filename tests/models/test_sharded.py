"""Sharding changes neither the weights nor the checkpoint."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.helpers.sharded_run import run
from tests.helpers.train_command import REPOSITORY


@pytest.mark.slow
def test_fsdp_ends_where_one_process_does(tmp_path: Path) -> None:
    """With sharded weights, decay by shape and shared statistics, two processes equal one with the whole batch."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.helpers.sharded_run", str(tmp_path)],
        cwd=REPOSITORY,
        env={**os.environ, "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.rglob("*.ckpt")
    sharded = torch.load(path, weights_only=True)
    whole = run(str(tmp_path / "one"), 64, devices=1).state_dict()
    assert sharded["state_dict"].keys() == whole.keys()
    torch.testing.assert_close(sharded["state_dict"], whole, rtol=1e-4, atol=1e-5)
