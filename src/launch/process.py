"""Each process of a run of several: when one process fails, the run ends soon, with the first error.

The launcher ends the processes that it started. It is torchrun, SLURM, or the first process if Lightning's launcher
starts the others (`launcher.py`). This module imports neither torch nor lightning, so that a process is tied to its
launcher at once.
"""

import ctypes
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from lightning import Trainer

GRACE = 5.0
"""Seconds that a process waits to be ended before it prints an error that another process may have caused."""

ENDS_WITH_PARENT = "LIGHTNING_NORMS_ENDS_WITH_PARENT"
"""Environment variable: this process ends with its parent, although it is not one of several processes of a run."""

STARTED_BY = "LIGHTNING_NORMS_STARTED_BY"
"""Environment variable: the PID of the process that started this one."""

_PR_SET_PDEATHSIG = 1  # from Linux's <sys/prctl.h>
_SIGKILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # on Windows SIGTERM ends a process as abruptly
_TIMEOUT_ERROR = "timed? ?out"
_CONNECTION_ERROR = f"connection (was )?(closed|reset|refused)|broken pipe|remote process exited|{_TIMEOUT_ERROR}"
_asked_to_end = threading.Event()

last_message = threading.Lock()
"""Held by the thread that prints this process's last message and then ends the process."""


def end_with_launcher() -> None:
    """Make the kernel kill this process when its launcher ends for any reason (Linux); do nothing without one."""
    if ("LOCAL_RANK" in os.environ or ENDS_WITH_PARENT in os.environ) and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.environ.get(STARTED_BY, launcher := str(os.getppid())) != launcher:
            os._exit(1)  # the launcher ended before the call above


def yield_to_others() -> None:
    """Wait to be ended by the launcher. Each rank waits longer than the rank before it, so that only one prints."""
    time.sleep(GRACE + local_rank())


def local_rank() -> int:
    """This process's number on its machine, as torchrun and Lightning set it, or SLURM."""
    return int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", 0)))


def run_as_one(main: Callable[[], object]) -> None:
    """Call `main`. If it fails in a run of several processes, end this process at once and wait for no other."""
    try:
        main()
    except SystemExit as stopped:
        if not stopped.code or not _in_group():
            raise
        with last_message:
            if isinstance(stopped.code, int):
                exit_now(stopped.code)
            print(stopped.code, file=sys.stderr)
            exit_now(1)
    except Exception as error:
        if not _in_group():
            raise
        _fail(error)


def _in_group() -> bool:
    # A process that has not imported torch.distributed is in no group, and the import takes a second.
    distributed = sys.modules.get("torch.distributed")
    return bool(distributed and distributed.is_available() and distributed.is_initialized())


def _fail(error: Exception) -> NoReturn:
    """Print the error and end this process. If the connection was lost, first wait for the launcher to end it."""
    from torch.distributed import get_rank
    from torch.distributed.elastic.multiprocessing.errors import get_error_handler

    lost_connection = isinstance(error, RuntimeError) and re.search(_CONNECTION_ERROR, str(error), re.IGNORECASE)
    timed_out = lost_connection and re.search(_TIMEOUT_ERROR, str(error), re.IGNORECASE)
    if lost_connection:
        if _asked_to_end.is_set():  # by a launcher, which knows which process failed first
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
        yield_to_others()
    with last_message:
        get_error_handler().record_exception(error)  # torchrun's summary quotes the earliest error
        # torch.distributed's own hook, which puts the rank before each line.
        sys.excepthook(type(error), error, error.__traceback__)
        if timed_out:
            print_error(
                f"process {get_rank()} waited for another process at the place above, which hangs or needs more time "
                "(--timeout, in seconds)"
            )
            if os.environ.get(STARTED_BY) == str(os.getppid()):
                # The launcher has printed nothing, so the launcher hangs. It may not notice that this process ends.
                os.kill(os.getppid(), _SIGKILL)
        elif lost_connection:
            print_error(f"process {get_rank()} lost its connection to another process, whose error came first")
        exit_now(1)


def print_error(message: str) -> None:
    """Print a line `error: ...` to standard error."""
    print(f"error: {message}", file=sys.stderr)


def exit_now(code: int) -> NoReturn:
    """End this process at once. `sys.exit` would first close the connections to the others, and may wait for them."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def end_between_steps(trainer: "Trainer") -> None:
    """Have SIGTERM end a run at the end of a training step.

    Lightning's handler broadcasts in the middle of a step. If another process is in a norm's collective at that moment,
    both wait for ever. The processes agree on the signal at each step in any case.
    """
    connector = trainer._signal_connector

    def note(signum: int, _: object) -> None:
        launcher = trainer.strategy.launcher
        if launcher is not None and not connector.received_sigterm:
            launcher.kill(signum)
        connector.received_sigterm = True
        _asked_to_end.set()

    connector._sigterm_notifier_fn = note  # type: ignore[method-assign]
