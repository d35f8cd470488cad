"""One run: a process of train.py, and the file `run.json` that keeps its state."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal
from zipfile import is_zipfile

from src.cli.run_folder import RunFolder, runs_of
from src.compare.curves import diverged, read_scalars
from src.data import publish, scratch_folder
from src.launch.process import ENDS_WITH_PARENT
from src.machine import REPOSITORY, hardware, software

STATE_FILE = "run.json"
SECONDS_TO_END = 20.0
"""Seconds that a run has to end by itself after SIGTERM, before it is killed."""


@dataclass(frozen=True)
class Job:
    """A run that is asked for, as plain values, so that it can be sent to another machine."""

    arm: str
    seed: int
    folder: Path
    """Absolute path; train.py makes version_0, version_1, ... in it."""

    flags: tuple[str, ...]
    options: dict[str, Any]
    """All options of train.py that follow from the flags. A run with other options is another run."""

    threads: int
    working_folder: Path

    @property
    def name(self) -> str:
        return f"{self.arm}, seed {self.seed}"

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"


@dataclass(frozen=True)
class State:
    """The state of a run: whether it has started, how it ended, its peak memory, its hardware and its versions."""

    status: Literal["started", "finished", "diverged", "failed"]
    first_version: int
    """The first folder `version_<n>` of a run with these options; lower numbers are of runs with other options."""

    error: str = ""
    peak_memory: int = 0
    """Bytes of the process on the host; the last attempt's if there were several; 0 if not known."""

    hardware: str = ""
    software: str = ""
    threads: int = 0

    @property
    def is_over(self) -> bool:
        """Whether the run is not repeated. A failed run is repeated; a diverged run would diverge again."""
        return self.status in ("finished", "diverged")


def load_state(job: Job) -> State | None:
    """The run's state, or None if it has never been started with these options."""
    path = job.folder / STATE_FILE
    if not path.is_file():
        return None
    saved = json.loads(path.read_text())
    return State(**saved["state"]) if saved["options"] == job.options else None


def save_state(job: Job, state: State) -> State:
    """Write the state whole or not at all, and return it."""
    with scratch_folder(job.folder) as scratch:
        text = json.dumps({"state": asdict(state), "flags": job.flags, "options": job.options}, indent=1)
        (scratch / STATE_FILE).write_text(text)
        publish(scratch / STATE_FILE, job.folder / STATE_FILE)
    return state


def next_version(job: Job) -> int:
    """The number of the folder that train.py would make next."""
    return 1 + max((run.version for run in runs_of(job.folder)), default=-1)


def run_folder(job: Job, state: State) -> RunFolder | None:
    """The folder of the run's events and checkpoints, once train.py has made it."""
    newest = next(iter(runs_of(job.folder)), None)
    return newest if newest and newest.version >= state.first_version else None


def execute(job: Job, stopped: Callable[[], bool] = lambda: False) -> State:
    """Run train.py to its end, or resume it where an earlier attempt was stopped.

    Raises:
        KeyboardInterrupt: `stopped` returned True; the process has ended.
    """
    state = load_state(job)
    if state and state.is_over:
        return state
    if not state:
        job.folder.mkdir(parents=True, exist_ok=True)
        state = State("started", next_version(job))
    save_state(job, State("started", state.first_version))
    # An attempt without a whole checkpoint cannot be resumed, and its curves would stay in TensorBoard. It ended before
    # its first checkpoint, or while it wrote one.
    while (folder := run_folder(job, state)) and not is_zipfile(folder.checkpoint("last")):
        shutil.rmtree(folder.path)
    flags = [*job.flags, f"--trainer.default_root_dir={job.folder.parent}", f"--experiment={job.folder.name}"]
    if folder:
        flags.append("--ckpt_path=last")
    begun = job.log.stat().st_size if job.log.is_file() else 0
    code, peak_memory = _run_process(job, flags, stopped)
    with job.log.open(errors="replace") as log:
        log.seek(begun)
        output = log.read()
    status, error = _outcome(run_folder(job, state), code, output)
    ended = State(status, state.first_version, error, peak_memory, hardware(), software(), job.threads)
    return save_state(job, ended)


def _run_process(job: Job, flags: list[str], stopped: Callable[[], bool]) -> tuple[int, int]:
    """Run train.py in a process; return its exit code and its peak memory in bytes."""
    peak_memory = 0
    environment = {**os.environ, "OMP_NUM_THREADS": str(job.threads), ENDS_WITH_PARENT: "1", "COLUMNS": "120"}
    command = [sys.executable, str(REPOSITORY / "train.py"), "fit", *flags]
    with job.log.open("ab") as log:
        # In a process group of its own, since Ctrl-C must reach only compare.py, which then ends its runs.
        process = subprocess.Popen(
            command,
            cwd=job.working_folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
    try:
        while process.poll() is None:
            peak_memory = max(peak_memory, _peak_memory(process.pid))
            if stopped():
                raise KeyboardInterrupt
            time.sleep(0.1)
        return process.returncode, peak_memory
    except BaseException:
        _end(process)
        raise


def _peak_memory(pid: int) -> int:
    """The most memory that a process has taken so far, in bytes; 0 on systems without /proc.

    `ru_maxrss` is not used: it starts at the memory that the parent had when it started the process.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"VmHWM:\s*(\d+) kB", status)
    return int(found[1]) * 1024 if found else 0  # no such line in a process that has ended


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        if sys.platform == "win32":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _outcome(folder: RunFolder | None, code: int, output: str) -> tuple[Literal["finished", "diverged", "failed"], str]:
    """How a run ended and its error, from its events, the exit code of train.py and what train.py printed."""
    curves = read_scalars(folder.path) if folder else {}
    if diverged(curves):
        return "diverged", ""
    if code == 0 and "test/accuracy" in curves:
        return "finished", ""
    signum = -code if code < 0 else code - 128  # a signal N is -N from the kernel, and 128 + N from train.py
    if signum in set(signal.Signals):
        return "failed", f"ended by {signal.Signals(signum).name}"
    if code == 0:
        return "failed", "no test accuracy: train.py ended without testing"
    lines = [line for line in output.splitlines() if line.strip()]
    marked = next((line for line in lines if line.startswith("error: ")), None)
    return "failed", (marked or re.sub(r"\s+", " ", lines[-1] if lines else f"exit code {code}")).removeprefix(
        "error: "
    )
