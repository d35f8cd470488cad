"""The same run under torchrun on two nodes, and under SLURM. Both are simulated on this machine."""

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.helpers.train_command import PLAIN, REPOSITORY, last_weights, link_configs, run_here
from tests.helpers.train_jobs import free_port

STEPS = ["--trainer.max_epochs=2", "--trainer.limit_train_batches=3", "--trainer.log_every_n_steps=1"]
DATA = ["--config=configs/digits.yaml", "--data.crop_padding=0", "--model.width=8", "--trainer.precision=64-true"]
TRAIN = ["fit", *DATA, *STEPS, *PLAIN]
DDP = ["--config=configs/ddp.yaml", "--trainer.accelerator=cpu", "--trainer.sync_batchnorm=true"]
FOUR = [*DDP, "--trainer.num_nodes=2", "--trainer.devices=2", "--data.batch_size=16"]


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Equal within rounding: six steps at the recipe's learning rate raise float64's error from 1e-16 to 1e-8."""
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    link_configs(tmp_path)
    return tmp_path


@pytest.fixture
def of_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    folder = tmp_path / "one"
    folder.mkdir()
    run_here(monkeypatch, folder, *TRAIN)
    return last_weights(folder)


@pytest.mark.slow
def test_torchrun_on_two_nodes(folder: Path, of_one_process: dict[str, torch.Tensor]) -> None:
    """Two agents with two ranks each end with the weights of one process with the whole batch."""
    where = f"--rdzv-endpoint=127.0.0.1:{free_port()}"
    agent = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=2"]
    command = [*agent, "--rdzv-backend=c10d", where, "--rdzv-id=1", str(REPOSITORY / "train.py"), *TRAIN, *FOUR]
    with (folder / "agents.log").open("w") as log:
        agents = [subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT) for _ in range(2)]
        codes = [agent.wait(timeout=280) for agent in agents]
    assert codes == [0, 0], (folder / "agents.log").read_text()
    assert_same(last_weights(folder), of_one_process)


SRUN = """\
#!{python}
# srun: the command once for each task, with the variables that SLURM sets.
import os, subprocess, sys
at = next(i for i, argument in enumerate(sys.argv[1:], 1) if not argument.startswith("-"))
tasks = [
    subprocess.Popen(sys.argv[at:], env={{**os.environ, "SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)}})
    for i in range(int(os.environ["SLURM_NTASKS"]))
]
open("srun.pids", "w").write(" ".join(str(task.pid) for task in tasks))
sys.exit(max(abs(task.wait()) for task in tasks))
"""
SCONTROL = """\
#!{python}
# scontrol: ends the tasks, as SLURM does with a job that goes back into the queue.
import os, signal, sys
open("scontrol.log", "w").write(" ".join(sys.argv[1:]))
for pid in open("srun.pids").read().split():
    os.kill(int(pid), signal.SIGKILL)
"""


@pytest.fixture
def slurm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which the batch script runs as on a cluster that starts two tasks on one node."""
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        script = folder / "bin" / name
        script.parent.mkdir(exist_ok=True)
        script.write_text(text.format(python=sys.executable))
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
    (folder / "train.py").symlink_to(REPOSITORY / "train.py")
    (folder / ".venv/bin").mkdir(parents=True)
    (folder / ".venv/bin/python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (folder / ".venv/bin/python").chmod(0o755)
    variables = {"JOB_ID": "7", "JOB_NAME": "train", "NNODES": "1", "NODELIST": "localhost", "NODEID": "0"}
    variables |= {"NTASKS": "2", "NTASKS_PER_NODE": "2"}
    for name, value in variables.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
    return folder


@pytest.mark.slow
def test_slurm_requeues_and_goes_on(
    slurm: Path, of_one_process: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that gets the signal before its time limit requeues itself, and resumes to the same final weights."""
    script = str(REPOSITORY / "scripts/train.sbatch")
    command = ["bash", script, *TRAIN, *DDP, "--data.batch_size=32"]
    with (slurm / "first.log").open("w") as log:
        job = subprocess.Popen(command, cwd=slurm, stdout=log, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + 200
        while not list(slurm.glob("runs/digits/*/checkpoints/last.ckpt")):
            assert job.poll() is None, (slurm / "first.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        job.send_signal(signal.SIGUSR1)
        assert job.wait(timeout=60) != 0
    assert (slurm / "scontrol.log").read_text() == "requeue 7"
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    done = subprocess.run(command, cwd=slurm, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert_same(last_weights(slurm), of_one_process)
