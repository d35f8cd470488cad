"""The progress of a comparison on the screen while its runs run."""

import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from src.compare.curves import measure, read_scalars
from src.compare.run import STATE_FILE, Job, State, load_state, run_folder

SECONDS_BETWEEN_UPDATES = 2.0
MAX_SHARE = 0.02
"""The largest share of the time that goes into reading the curves, which may be long; the runs need the cores."""


class ComparisonProgress:
    """Prints a line for each run that has ended; on a terminal, also a bar for all runs and one for each that runs.

    The bars follow the files of the runs, so that a run may be on another machine.
    """

    def __init__(self, console: Console, jobs: Sequence[Job], num_finished: int, outcome: Callable[[Job, State], str]):
        self.console, self.outcome = console, outcome
        self.waiting = {job.name: job for job in jobs}
        self._written = {job.name: written(job) for job in jobs}
        self.total = len(jobs) + num_finished
        columns = [
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
        ]
        self.progress = Progress(*columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal)
        self.overall = self.progress.add_task("runs", total=self.total, completed=num_finished, note="")
        self.bars: dict[str, TaskID] = {}
        self.counts: dict[str, int] = {}
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._update_bars, name="progress", daemon=True)

    def __enter__(self) -> Self:
        self.progress.start()
        if self.console.is_terminal:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        self.progress.stop()

    def ended(self, job: Job, state: State) -> None:
        """Print the line of a run that has ended, and remove its bar."""
        with self._lock:
            del self.waiting[job.name]
            if (bar := self.bars.pop(job.name, None)) is not None:
                self.progress.remove_task(bar)
        self.counts[state.status] = self.counts.get(state.status, 0) + 1
        note = ", ".join(f"{count} {status}" for status, count in self.counts.items() if status != "finished")
        self.progress.update(self.overall, advance=1, note=note)
        place = f"{self.total - len(self.waiting)}/{self.total}"
        self.console.print(
            f"{place:>7}  {job.name}: {self.outcome(job, state)}", markup=False, highlight=False, soft_wrap=True
        )

    def _update_bars(self) -> None:
        took = 0.0
        while not self._ended.wait(max(SECONDS_BETWEEN_UPDATES, took / MAX_SHARE)):
            start = time.monotonic()
            with self._lock:
                for job in self.waiting.values():
                    self._update_bar(job)
            took = time.monotonic() - start

    def _update_bar(self, job: Job) -> None:
        if written(job) == self._written[job.name]:
            return  # an earlier comparison, which was interrupted, left this state
        state = load_state(job)
        folder = run_folder(job, state) if state and state.status == "started" else None
        if folder is None:
            return
        if job.name not in self.bars:
            epochs = job.options["trainer"]["max_epochs"]
            self.bars[job.name] = self.progress.add_task(
                job.name, total=epochs if epochs and epochs > 0 else None, note=""
            )
        by_epoch = measure(read_scalars(folder.path)).val_accuracy
        if by_epoch:
            epoch = max(by_epoch)
            note = f"val/accuracy {by_epoch[epoch]:.4f}"
            self.progress.update(self.bars[job.name], completed=epoch, note=note)


def written(job: Job) -> int:
    """The time at which a run's state was written, in nanoseconds; 0 if there is no state."""
    try:
        return (job.folder / STATE_FILE).stat().st_mtime_ns
    except FileNotFoundError:
        return 0
