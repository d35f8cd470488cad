"""A comparison on a Ray cluster."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from src.compare import read_scalars
from tests.helpers.compare_command import (
    TINY,
    compare_here,
    error_of,
    parent_of,
    rows,
    start,
    training_process,
    wait_until,
)


def test_without_ray_the_error_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert error_of(monkeypatch, capsys, tmp_path, "--config=configs/digits.yaml --ray=auto") == (
        "error: --ray needs Ray, which is not installed: pip install -r requirements-ray.txt"
    )


@pytest.fixture
def address() -> Iterator[str]:
    """The address of a cluster of two nodes with one core each."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install -r requirements-ray.txt")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    yield cluster.address
    cluster.shutdown()


@pytest.mark.slow
def test_a_killed_workers_run_is_retried_and_the_results_are_those_of_local_runs(
    address: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    command = [*TINY, "--norms=BatchNorm,LayerNorm", "--seeds=1", "--trainer.max_epochs=20", "--output=out"]
    there.mkdir(), here.mkdir()
    process = start(there, *command, f"--ray={address}")
    folder = there / "out/LayerNorm/seed_0"
    wait_until((folder / "version_0/checkpoints/last.ckpt").is_file, process)
    pid = training_process(folder)
    assert pid
    os.kill(parent_of(pid), signal.SIGKILL)
    shown, _ = process.communicate(timeout=300)
    assert process.returncode == 0, shown
    assert "Restored all states" in (folder / "log.txt").read_text()  # the second attempt resumed

    assert compare_here(monkeypatch, here, *command) == 0
    for name in ("seed", "norm", "status", "test_accuracy"):
        values = [[row[name] for row in rows(place / "out/runs.csv")] for place in (here, there)]
        assert values[0] == values[1]
    for run in ("BatchNorm/seed_0", "LayerNorm/seed_0"):
        curves = [read_scalars(place / "out" / run / "version_0") for place in (here, there)]
        losses = [[(step, value) for step, _, value in each["train/loss"]] for each in curves]
        assert losses[0] == losses[1]
