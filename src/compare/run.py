"""One run: a process of train.py, and the file that says how far it came."""

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

from src.cli.run_folder import versions
from src.compare.curves import diverged, read_scalars
from src.compare.options import REPOSITORY
from src.data import publish, scratch_folder
from src.launch.process import ENDS_WITH_PARENT
from src.machine import hardware, software

STATE_FILE = "run.json"
GRACE = 20.0
"""Seconds in which a run that is stopped is to end by itself."""


@dataclass(frozen=True)
class Job:
    """One run that is asked for: plain values, so that it can be sent to another machine."""

    arm: str
    seed: int
    folder: Path
    """Of its runs, absolute: train.py makes version_0 in it."""

    flags: tuple[str, ...]
    options: dict[str, Any]
    """What the flags come to; a run with other options is another run."""

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
    """How far a run has come."""

    status: Literal["started", "finished", "diverged", "failed"]
    first_version: int
    """Of the versions in its folder, those from this one on are of the run's options."""

    error: str = ""
    peak_memory: int = 0
    """Of the process on the host, in bytes, and of several attempts the last; 0 where it is not known."""

    hardware: str = ""
    software: str = ""
    threads: int = 0

    @property
    def is_over(self) -> bool:
        """A failed run is tried again by the next command; a run that diverged would diverge again."""
        return self.status in ("finished", "diverged")


def load_state(job: Job) -> State | None:
    """The run's state, or None if it has never been started with these options."""
    path = job.folder / STATE_FILE
    if not path.is_file():
        return None
    saved = json.loads(path.read_text())
    return State(**saved["state"]) if saved["options"] == job.options else None


def save_state(job: Job, state: State) -> State:
    """Write it whole or not at all."""
    with scratch_folder(job.folder) as scratch:
        text = json.dumps({"state": asdict(state), "flags": job.flags, "options": job.options}, indent=1)
        (scratch / STATE_FILE).write_text(text)
        publish(scratch / STATE_FILE, job.folder / STATE_FILE)
    return state


def number(version: Path) -> int:
    return int(version.name.removeprefix("version_"))


def next_version(job: Job) -> int:
    """The number of the folder that train.py would make next."""
    return 1 + max(map(number, versions(job.folder)), default=-1)


def version_of(job: Job, state: State) -> Path | None:
    """The folder of the run's events and checkpoints, once train.py has made it."""
    newest = next(iter(versions(job.folder)), None)
    return newest if newest and number(newest) >= state.first_version else None


def execute(job: Job, stopped: Callable[[], bool] = lambda: False) -> State:
    """Run train.py to its end, going on where an earlier attempt was stopped.

    Raises:
        KeyboardInterrupt: `stopped` became true; the process has ended.
    """
    state = load_state(job)
    if state and state.is_over:
        return state
    if not state:
        job.folder.mkdir(parents=True, exist_ok=True)
        state = State("started", next_version(job))
    save_state(job, State("started", state.first_version))
    # An attempt that ended before its first checkpoint leaves nothing to go on with, but curves that lead nowhere; one
    # that was killed while it wrote its checkpoint may leave a part of it.
    while (version := version_of(job, state)) and not is_zipfile(version / "checkpoints/last.ckpt"):
        shutil.rmtree(version)
    flags = [*job.flags, f"--trainer.default_root_dir={job.folder.parent}", f"--experiment={job.folder.name}"]
    if version:
        flags.append("--ckpt_path=last")
    begun = job.log.stat().st_size if job.log.is_file() else 0
    code, peak_memory = _run_process(job, flags, stopped)
    with job.log.open(errors="replace") as log:
        log.seek(begun)
        shown = log.read()
    status, error = _outcome(version_of(job, state), code, shown)
    ended = State(status, state.first_version, error, peak_memory, hardware(), software(), job.threads)
    return save_state(job, ended)


def _run_process(job: Job, flags: list[str], stopped: Callable[[], bool]) -> tuple[int, int]:
    """Exit code and peak memory in bytes."""
    peak_memory = 0
    environment = {**os.environ, "OMP_NUM_THREADS": str(job.threads), ENDS_WITH_PARENT: "1", "COLUMNS": "120"}
    command = [sys.executable, str(REPOSITORY / "train.py"), "fit", *flags]
    with job.log.open("ab") as log:
        # A group of its own: Ctrl-C reaches compare.py alone, which ends what it started.
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
    """The most that a process has taken so far, in bytes; on systems without /proc 0.

    Not `ru_maxrss`, which starts with what the parent took when it started the process.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"VmHWM:\s*(\d+) kB", status)
    return int(found[1]) * 1024 if found else 0  # it has ended, and is not waited for yet


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        if sys.platform == "win32":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _outcome(version: Path | None, code: int, shown: str) -> tuple[Literal["finished", "diverged", "failed"], str]:
    curves = read_scalars(version) if version else {}
    if diverged(curves):
        return "diverged", ""
    if code == 0 and "test/accuracy" in curves:
        return "finished", ""
    signum = -code if code < 0 else code - 128  # as the kernel says it, or as train.py does
    if signum in set(signal.Signals):
        return "failed", f"ended by {signal.Signals(signum).name}"
    if code == 0:
        return "failed", "no test accuracy: train.py ended without testing"
    lines = [line for line in shown.splitlines() if line.strip()]
    marked = next((line for line in lines if line.startswith("error: ")), None)
    return "failed", (marked or re.sub(r"\s+", " ", lines[-1] if lines else f"exit code {code}")).removeprefix(
        "error: "
    )
