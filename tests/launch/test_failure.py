"""If one of two processes fails, the run soon ends as failed, with the first error, and leaves no process."""

import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.helpers.train_command import PLAIN, REPOSITORY, link_configs

LAUNCHERS = {"lightning": [], "torchrun": ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]}
TWO = ["--trainer.accelerator=cpu", "--trainer.strategy=ddp", "--trainer.devices=2"]
RUN = ["fit", "--config=configs/digits.yaml", "--model.width=8", "--trainer.logger=false", *TWO, *PLAIN]
PATIENCE = 240
"""Seconds until a test gives up: far below what the processes would wait for without a `--timeout`."""


class Ended(NamedTuple):
    """The exit code and the output of a run."""

    code: int
    shown: str


def alive(marker: str) -> list[int]:
    """The PIDs of the processes with a marker in their environment. Child processes inherit the marker."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            ended = (folder / "stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
            if not ended and marker.encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:  # the process has ended, or belongs to another user
            continue
    return found


def wait_until(done: Callable[[], object]) -> bool:
    deadline = time.monotonic() + PATIENCE
    while not done() and time.monotonic() < deadline:
        time.sleep(0.1)
    return bool(done())


def ask_to_end(process: subprocess.Popen[bytes]) -> None:
    """Send SIGTERM as soon as the trainer handles it, which is at the start of the first epoch."""

    def notes() -> bool:
        caught = re.search(r"SigCgt:\t(\w+)", Path(f"/proc/{process.pid}/status").read_text())
        return bool(caught and int(caught[1], 16) >> signal.SIGTERM - 1 & 1)

    assert wait_until(notes)
    process.terminate()


def end(
    folder: Path, launcher: str, *arguments: str, interfere: Callable[[subprocess.Popen[bytes]], None] | None = None
) -> Ended:
    """Run the command, and wait until all of its processes have ended."""
    link_configs(folder)
    marker = uuid.uuid4().hex
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "LIGHTNING_NORMS_TEST": marker}
    command = [sys.executable, *LAUNCHERS[launcher], str(REPOSITORY / "train.py"), *RUN, *arguments]
    with (folder / "shown.txt").open("w") as shown:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=shown, stderr=subprocess.STDOUT)
    try:
        if interfere:
            assert wait_until(lambda: "Loading `train_dataloader`" in (folder / "shown.txt").read_text())
            interfere(process)
        process.wait(PATIENCE)
        assert wait_until(lambda: not alive(marker)), "processes are left"
    finally:
        for pid in alive(marker):
            os.kill(pid, signal.SIGKILL)
    return Ended(process.returncode, (folder / "shown.txt").read_text())


def failing(rank: int, how: str) -> list[str]:
    return [
        "--trainer.callbacks=tests.helpers.failing_process.Fail",
        f"--trainer.callbacks.rank={rank}",
        f"--trainer.callbacks.how={how}",
    ]


slow = pytest.mark.slow


@pytest.mark.parametrize("rank", [pytest.param(0, marks=slow), 1])
def test_an_exception_is_the_last_that_is_shown(rank: int, tmp_path: Path) -> None:
    code, shown = end(tmp_path, "lightning", *failing(rank, "raise"))
    assert code == 1
    error = f"[rank{rank}]: ArithmeticError: the first error, of process {rank}\n"
    assert shown.count("Traceback") == 1  # the process that lost its peer shows no traceback
    after = shown[shown.index(error) + len(error) :]
    assert re.fullmatch(
        r"error: process 1 \(PID \d+\) ended with exit code 1; its error is above\n" if rank else "", after
    )


@slow
@pytest.mark.parametrize("rank", [0, 1])
def test_torchrun_names_the_first_exception(rank: int, tmp_path: Path) -> None:
    code, shown = end(tmp_path, "torchrun", *failing(rank, "raise"))
    assert code == 1
    cause = shown[shown.index("Root Cause (first observed failure)") :]
    assert f"rank      : {rank} " in cause
    assert f"ArithmeticError: the first error, of process {rank}\n" in cause
    assert "third_party/gloo" not in shown


@pytest.mark.parametrize(
    ("launcher", "rank"),
    [
        pytest.param("lightning", 0, marks=slow),
        pytest.param("lightning", 1, marks=slow),
        pytest.param("torchrun", 0, marks=slow),
        pytest.param("torchrun", 1, marks=slow),
    ],
)
def test_a_killed_process_ends_the_others(launcher: str, rank: int, tmp_path: Path) -> None:
    code, shown = end(tmp_path, launcher, *failing(rank, "kill"))
    assert code == {"torchrun": 1, "lightning": -signal.SIGKILL if rank == 0 else 128 + signal.SIGKILL}[launcher]
    assert "third_party/gloo" not in shown
    if launcher == "torchrun":
        cause = shown[shown.index("Root Cause (first observed failure)") :]
        assert f"rank      : {rank} " in cause
        assert "(SIGKILL)" in cause
    elif rank == 1:
        assert re.search(r"\nerror: process 1 \(PID \d+\) was ended by SIGKILL\n$", shown)


def test_a_process_that_is_ended_for_another_is_silent(tmp_path: Path) -> None:
    code, shown = end(tmp_path, "lightning", *failing(1, "end"))
    assert code == 128 + signal.SIGTERM
    assert "third_party/gloo" not in shown
    assert re.search(r"\nerror: process 1 \(PID \d+\) was ended by SIGTERM\n$", shown)


@pytest.mark.parametrize(
    ("launcher", "rank", "how"),
    [
        pytest.param("lightning", 1, "hang", marks=slow),
        pytest.param("lightning", 0, "hang", marks=slow),
        pytest.param("lightning", 1, "stop", marks=slow),
        pytest.param("lightning", 0, "stop", marks=slow),
        pytest.param("torchrun", 0, "hang", marks=slow),
        pytest.param("torchrun", 1, "stop", marks=slow),
    ],
)
def test_a_process_that_hangs_ends_the_run(launcher: str, rank: int, how: str, tmp_path: Path) -> None:
    code, shown = end(tmp_path, launcher, *failing(rank, how), "--timeout=40")
    assert code not in (0, None)
    waited = f"error: process {1 - rank} waited for another process at the place above, which hangs or needs more time "
    assert waited + "(--timeout, in seconds)\n" in shown
    assert "Timed out waiting 40000ms" in shown[: shown.index(waited)]
    assert "fit_loop.py" in shown[: shown.index(waited)]  # in training, and not at the start


@pytest.mark.parametrize("launcher", [pytest.param(name, marks=slow) for name in LAUNCHERS])
def test_no_process_outlives_what_started_it(launcher: str, tmp_path: Path) -> None:
    code, _ = end(tmp_path, launcher, "--trainer.max_epochs=1000", interfere=lambda process: process.kill())
    assert code == -signal.SIGKILL


@slow
@pytest.mark.parametrize("sync", ["false", "true"])
def test_a_run_that_is_asked_to_end_has_failed(sync: str, tmp_path: Path) -> None:
    arguments = ["--trainer.max_epochs=1000", f"--trainer.sync_batchnorm={sync}"]
    code, _ = end(tmp_path, "lightning", *arguments, interfere=ask_to_end)
    assert code == 128 + signal.SIGTERM


@slow
def test_a_mistake_that_only_another_process_makes_is_shown(tmp_path: Path) -> None:
    code, shown = end(tmp_path, "lightning", *failing(1, "mistake"))
    assert code == 2
    assert shown.count("error: ") == 2
    assert "error: a mistake, of process 1\n" in shown
