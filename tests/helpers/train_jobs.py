"""Run train.py in several processes at once. The processes of all jobs share one import, which takes longest.

`python -m tests.helpers.train_jobs FOLDER JOBS` runs the jobs in a folder, one after the other. JOBS is a JSON list of
jobs; a job is a number of processes and their arguments. It prints a JSON list: for each job, the exit codes and the
output of the first process.
"""

import json
import os
import socket
import subprocess
import sys
import traceback
from pathlib import Path
from typing import NamedTuple

from tests.helpers.train_command import QUIET, REPOSITORY, link_configs


class Done(NamedTuple):
    """A job that has ended."""

    codes: list[int]
    shown: str


def run_jobs(folder: Path, jobs: list[tuple[int, list[str]]]) -> list[Done]:
    """Run jobs in a new process."""
    link_configs(folder)
    command = [sys.executable, "-m", "tests.helpers.train_jobs", str(folder), json.dumps(jobs)]
    environment = {**os.environ, "COLUMNS": "200"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return [Done(*job) for job in json.loads(done.stdout)]


def start(rank: int, world_size: int, port: int, arguments: list[str]) -> int:
    """Fork a process that trains as if a launcher had started it, and return its PID."""
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


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def run(world_size: int, arguments: list[str]) -> Done:
    """Run a job."""
    port = free_port()
    processes = [start(rank, world_size, port, arguments) for rank in range(world_size)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in processes]
    return Done(codes, Path("rank_0.txt").read_text())


if __name__ == "__main__":
    import src.cli  # noqa: F401 (imported once, before the processes are forked)

    os.chdir(sys.argv[1])
    print(json.dumps([run(*job) for job in json.loads(sys.argv[2])]))
