"""How a run of several processes ends when one of them fails: soon, with the first error, and with no process left.

Whoever starts the processes ends them: torchrun and SLURM do, and where Lightning's launcher starts them, the first
process, which started the others, does it here. Imports little, so that a process is tied to its launcher at once.
"""

import ctypes
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from subprocess import Popen, TimeoutExpired
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from lightning import Trainer

GRACE = 5.0
"""Seconds in which a process whose error may only follow from another's is to be ended before it speaks."""

ENDS_WITH_PARENT = "LIGHTNING_NORMS_ENDS_WITH_PARENT"
"""Set for a process whose parent is its launcher, though it is no process of several."""

_STARTED_BY = "LIGHTNING_NORMS_STARTED_BY"
_PR_SET_PDEATHSIG = 1
_SIGKILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # which on Windows ends a process as abruptly
_TIMED_OUT = "timed? ?out"
_OF_THE_CONNECTION = f"connection (was )?(closed|reset|refused)|broken pipe|remote process exited|{_TIMED_OUT}"
_last_word = threading.Lock()  # whoever has it ends this process
_asked_to_end = threading.Event()


def end_with_launcher() -> None:
    """Have the kernel kill this process, if a launcher started it, when the launcher ends, in whatever way (Linux)."""
    if ("LOCAL_RANK" in os.environ or ENDS_WITH_PARENT in os.environ) and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.environ.get(_STARTED_BY, launcher := str(os.getppid())) != launcher:
            os._exit(1)  # it ended before the kernel was told


def yield_to_others() -> None:
    """Wait to be ended by the launcher, each process longer than the one before, so that one of them speaks."""
    time.sleep(GRACE + local_rank())


def local_rank() -> int:
    """This process' number on its machine, as torchrun and Lightning set it, or SLURM."""
    return int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", 0)))


def run_as_one(main: Callable[[], object]) -> None:
    """Call `main`, and end this process at once where it fails in a run of several, without waiting for the others."""
    try:
        main()
    except SystemExit as stopped:
        if not stopped.code or not _in_group():
            raise
        with _last_word:
            if isinstance(stopped.code, int):
                _end(stopped.code)
            print(stopped.code, file=sys.stderr)
            _end(1)
    except Exception as error:
        if not _in_group():
            raise
        _speak(error)


def _in_group() -> bool:
    # What was not imported is not in use, and its import takes a second.
    distributed = sys.modules.get("torch.distributed")
    return bool(distributed and distributed.is_available() and distributed.is_initialized())


def _speak(error: Exception) -> NoReturn:
    from torch.distributed import get_rank
    from torch.distributed.elastic.multiprocessing.errors import get_error_handler

    of_the_connection = isinstance(error, RuntimeError) and re.search(_OF_THE_CONNECTION, str(error), re.IGNORECASE)
    timed_out = of_the_connection and re.search(_TIMED_OUT, str(error), re.IGNORECASE)
    if of_the_connection:
        if _asked_to_end.is_set():  # by a launcher that knows which process failed first
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
        yield_to_others()
    with _last_word:
        get_error_handler().record_exception(error)  # torchrun's summary quotes the earliest one
        # The hook that torch.distributed sets, which names the rank in each line.
        sys.excepthook(type(error), error, error.__traceback__)
        if timed_out:
            _say(
                f"process {get_rank()} waited for another one at the place above, and it did not come: it hangs, or it "
                "needs more time (--timeout, in seconds)"
            )
            if os.environ.get(_STARTED_BY) == str(os.getppid()):
                # It would have spoken before: it is the one that hangs, and may be unable to see this one end.
                os.kill(os.getppid(), _SIGKILL)
        elif of_the_connection:
            _say(f"process {get_rank()} lost another process, whose error is the first one if there is one")
        _end(1)


def _say(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)


def _end(code: int) -> NoReturn:
    # Not sys.exit, which would close the connections to the others first and might wait for them.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def watch(processes: Callable[[], Sequence[Popen[bytes]]]) -> None:
    """Have a thread end this process, and by that those it started, as soon as one of them has failed.

    Lightning's own observer does so after up to five seconds, with a SIGKILL, which looks as if memory had run out.
    """
    os.environ[_STARTED_BY] = str(os.getpid())
    threading.Thread(target=_watch, args=[processes], name="watch", daemon=True).start()


def _watch(processes: Callable[[], Sequence[Popen[bytes]]]) -> None:
    while True:
        time.sleep(0.05)
        for rank, process in enumerate(processes(), start=1):
            if code := process.poll():
                _end_as(rank, process.pid, code)


def _end_as(rank: int, pid: int, code: int) -> NoReturn:
    """End this process as one that it started has."""
    with _last_word:
        if code < 0:
            _say(f"process {rank} (PID {pid}) was ended by {signal.Signals(-code).name}")
        else:
            _say(f"process {rank} (PID {pid}) ended with exit code {code}; its error is above")
        _end(code if code > 0 else 128 - code)


def wait_for(processes: Sequence[Popen[bytes]], timeout: float) -> None:
    """Wait until the processes that were started have ended, as `watch` has them end this one where they fail."""
    for rank, process in enumerate(processes, start=1):
        try:
            code = process.wait(timeout)
        except TimeoutExpired:
            with _last_word:
                _say(f"process {rank} (PID {process.pid}) has not ended within {timeout:g} seconds of the run's end")
                _end(1)
        if code:
            _end_as(rank, process.pid, code)


def end_between_steps(trainer: "Trainer") -> None:
    """Have SIGTERM end a run at the end of a training step.

    Lightning's handler broadcasts from within a step, where it can meet another process' collective of a norm: both
    then wait for ever. The processes agree at each step in any case.
    """
    connector = trainer._signal_connector

    def note(signum: int, _: object) -> None:
        launcher = trainer.strategy.launcher
        if launcher is not None and not connector.received_sigterm:
            launcher.kill(signum)
        connector.received_sigterm = True
        _asked_to_end.set()

    connector._sigterm_notifier_fn = note  # type: ignore[method-assign]
