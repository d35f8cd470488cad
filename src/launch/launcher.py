"""The process that started the others ends the run as soon as one of them fails.

torchrun and SLURM do this for the processes that they start. Where Lightning's launcher starts the processes, the first
process is the launcher.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from subprocess import Popen, TimeoutExpired
from typing import NoReturn

from src.launch.process import STARTED_BY, exit_now, last_message, print_error


def end_when_one_fails(processes: Callable[[], Sequence[Popen[bytes]]]) -> None:
    """Start a thread that ends this process, and so the processes that it started, as soon as one of them has failed.

    Lightning's own observer does so after up to five seconds, with a SIGKILL, which looks as if memory had run out.
    """
    os.environ[STARTED_BY] = str(os.getpid())
    threading.Thread(target=_poll, args=[processes], name="end_when_one_fails", daemon=True).start()


def _poll(processes: Callable[[], Sequence[Popen[bytes]]]) -> None:
    while True:
        time.sleep(0.05)
        for rank, process in enumerate(processes(), start=1):
            if code := process.poll():
                _exit_like(rank, process.pid, code)


def wait_for(processes: Sequence[Popen[bytes]], timeout: float) -> None:
    """Wait until the processes of the ranks 1, 2, ... have ended; end this process if one fails.

    It also ends this process if one of them takes more than `timeout` seconds.
    """
    for rank, process in enumerate(processes, start=1):
        try:
            code = process.wait(timeout)
        except TimeoutExpired:
            with last_message:
                print_error(
                    f"process {rank} (PID {process.pid}) has not ended within {timeout:g} seconds of the run's end"
                )
                exit_now(1)
        if code:
            _exit_like(rank, process.pid, code)


def _exit_like(rank: int, pid: int, code: int) -> NoReturn:
    """End this process with the exit code of one that it started; a signal N becomes the exit code 128 + N."""
    with last_message:
        if code < 0:
            print_error(f"process {rank} (PID {pid}) was ended by {signal.Signals(-code).name}")
        else:
            print_error(f"process {rank} (PID {pid}) ended with exit code {code}; its error is above")
        exit_now(code if code > 0 else 128 - code)
