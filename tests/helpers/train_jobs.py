"""Runs of train.py by several processes, for tests of what they compute: they share one import, which takes longest.

As a script, `python -m tests.helpers.train_jobs FOLDER JOBS` runs in a folder the JSON list of jobs, each a number of
processes and their arguments, one after the other, and writes JSON: of each its exit codes and what its first process
printed.
"""

import json
import os
import socket
import subprocess
import sys
import traceback
from pathlib import Path
from typing import NamedTuple

from tests.helpers.train_command import QUIET, REPOSITORY


class Done(NamedTuple):
    """A job's end."""

    codes: list[int]
    shown: str


def run_jobs(folder: Path, jobs: list[tuple[int, list[str]]]) -> list[Done]:
    """Run them in a process of their own."""
    if not (folder / "configs").exists():
        (folder / "configs").symlink_to(REPOSITORY / "configs")
    command = [sys.executable, "-m", "tests.helpers.train_jobs", str(folder), json.dumps(jobs)]
    environment = {**os.environ, "COLUMNS": "200"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return [Done(*job) for job in json.loads(done.stdout)]


def start(rank: int, world_size: int, port: int, arguments: list[str]) -> int:
    """Fork a process that does as one that a launcher has started; its PID."""
    import train

    if pid := os.fork():
        return pid
    code = 1
    try:
        with Path(f"rank_{rank}.txt").open("w") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        os.environ |= {"LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size), "MASTER_PORT": str(port)}
        devices = [f"--trainer.devices={world_size}", "--trainer.strategy=ddp", "--trainer.accelerator=cpu"]
        sys.argv = ["train.py", *arguments, *devices, "--timeout=60", *QUIET]
        train.main()
        code = 0
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def run(world_size: int, arguments: list[str]) -> Done:
    """Run a job."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [start(rank, world_size, port, arguments) for rank in range(world_size)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in processes]
    return Done(codes, Path("rank_0.txt").read_text())


if __name__ == "__main__":
    import src.cli  # noqa: F401 (what the processes share)

    os.chdir(sys.argv[1])
    print(json.dumps([run(*job) for job in json.loads(sys.argv[2])]))
