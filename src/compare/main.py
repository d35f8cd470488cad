"""compare.py, from its command line to its tables."""

import contextlib
import itertools
import os
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from filelock import FileLock, Timeout
from rich.console import Console
from rich.table import Column, Table

from src.cli.parser import fail
from src.compare.chart import write_chart
from src.compare.comparison import Baseline, MeasuredRun, choose_baseline, make_rows, read_run
from src.compare.executors import RayCluster, run_here
from src.compare.figure import write_figure
from src.compare.fit_options import FitParser
from src.compare.grid import Arm
from src.compare.options import Options, parse
from src.compare.progress import ComparisonProgress
from src.compare.report import explanation, table, write_csv, write_runs_csv
from src.compare.run import Job, State, load_state
from src.machine import num_cores
from src.markdown import markdown_table

QUIET = ("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false")
# Added after the flags of an arm, which may set callbacks of their own.
STOP_WHEN_DIVERGED = (
    '--trainer.callbacks+={"class_path": "EarlyStopping", "init_args": {"monitor": "train/loss_epoch", '
    '"patience": 1000000000, "check_on_train_epoch_end": true}}',
)


def make_jobs(options: Options, arms: Sequence[Arm], threads: int) -> list[Job]:
    """All runs, ordered by seed, so that an arm that fails does so early, and an interruption leaves complete pairs.

    A mistake in the options of an arm ends the program.
    """
    configs = [f"--config={path}" for path in options.configs]
    parser = FitParser()
    output = Path(str(options.output)).absolute()
    flags = {arm.name: (*configs, *QUIET, *arm.flags, *STOP_WHEN_DIVERGED) for arm in arms}
    complete = {arm.name: parser.resolve(flags[arm.name]) for arm in arms}
    for one, other in itertools.combinations(complete, 2):
        if complete[one] == complete[other]:
            fail(f"'{one}' and '{other}' are the same to train.py: give different values")
    return [
        Job(
            arm=arm.name,
            seed=seed,
            folder=output / arm.folder / f"seed_{seed}",
            flags=(*flags[arm.name], f"--seed_everything={seed}"),
            options={**complete[arm.name], "seed_everything": seed},
            threads=threads,
            working_folder=Path.cwd(),
        )
        for seed in range(options.seeds)
        for arm in arms
    ]


def threads_per_run(cores: int, at_once: int) -> int:
    """OMP_NUM_THREADS if it is set, else an equal share of the cores."""
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]  # the first number in a list is for the outer loops
    if not asked:
        return max(1, cores // at_once)
    if not asked.isdecimal() or int(asked) < 1:
        fail(f"OMP_NUM_THREADS={asked}: expected a number above 0")
    return int(asked)


def stop_on_sigterm() -> None:
    """Treat SIGTERM, which a batch system sends when a job's time is over, as Ctrl-C."""

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)


@contextlib.contextmanager
def hold(output: Path) -> Iterator[None]:
    """Make the folder and lock it against other comparisons until the `with` block or this process ends."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        lock = FileLock(output / "lock").acquire(timeout=0)
    except Timeout:
        fail(f"another comparison is running in {output}: wait until it has ended, or choose another --output")
    except OSError as error:
        fail(f"cannot write to {output} ({error.strerror}): choose another --output")
    with lock:
        yield


def counted(count: int, noun: str) -> str:
    """`1 run`, `2 runs`"""
    return f"{count} {noun}{'s' * (count != 1)}"


def announce(console: Console, options: Options, arms: Sequence[Arm], num_over: int, threads: int) -> None:
    """Print how many runs there are, how many of them are over, and where they are executed."""
    runs = len(arms) * options.seeds
    lines = [f"{counted(runs, 'run')}: {counted(len(arms), 'arm')} x {counted(options.seeds, 'seed')}"]
    if num_over:
        lines.append(f"{num_over} of them done before")
    place = f"on the Ray cluster {options.ray}" if options.ray else f"{options.jobs} at once"
    lines.append(f"{place}, {counted(threads, 'thread')} each; in {options.output}")
    show(console, ", ".join(lines))


def show(console: Console, text: str) -> None:
    """Print a line as it is, without rich's markup, colors and line breaks."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def outcome(job: Job, state: State) -> str:
    """How a run has ended, in a few words."""
    if state.status == "failed":
        return f"failed: {state.error} ({os.path.relpath(job.log)})"
    if state.status == "diverged":
        return "diverged: a loss was not finite"
    return f"test accuracy {read_run(job, state).measures.test_accuracy:.4f}"


def main() -> None:
    arguments = sys.argv[1:]
    stop_on_sigterm()
    try:
        compare(arguments)
    except KeyboardInterrupt:
        stopped(arguments)


def stopped(arguments: Sequence[str], where: str = "") -> NoReturn:
    command = shlex.join(["python", "compare.py", *arguments])
    print(f"\nStopped{where}. To go on: {command}", file=sys.stderr)
    raise SystemExit(128 + signal.SIGINT) from None


def compare(arguments: list[str]) -> None:
    options = parse(arguments)
    try:
        axes = options.axes()
        arms = options.arms(axes)
        baseline = choose_baseline(axes, options.baseline)
    except ValueError as error:
        fail(str(error))
    cluster = RayCluster(options.ray) if options.ray else None
    threads = threads_per_run(cluster.num_cores if cluster else num_cores(), options.jobs)
    jobs = make_jobs(options, arms, threads)
    states = {job.name: load_state(job) for job in jobs}
    remaining = [job for job in jobs if not ((state := states[job.name]) and state.is_over)]
    console = Console(width=None if sys.stdout.isatty() else 200)
    announce(console, options, arms, len(jobs) - len(remaining), threads)
    if options.dry_run:
        for job in jobs:
            known = states[job.name]
            show(console, f"  {job.name}: {known.status if known else 'not started'}")
        raise SystemExit(0)

    def ended(job: Job, state: State) -> None:
        states[job.name] = state
        progress.ended(job, state)

    progress = ComparisonProgress(console, remaining, len(jobs) - len(remaining), outcome)
    try:
        with hold(Path(str(options.output))), progress:
            if cluster:
                cluster.run(remaining, ended)
            else:
                run_here(remaining, options.jobs, ended)
    except KeyboardInterrupt:
        done = sum(1 for state in states.values() if state and state.is_over)
        stopped(arguments, f" with {done} of {len(jobs)} runs done")
    runs = [read_run(job, state, options.target, options.measures) for job in jobs if (state := states[job.name])]
    write_report(console, options, arms, runs, baseline, shlex.join(["python", "compare.py", *arguments]))
    failed = [run for run in runs if run.state.status == "failed"]
    for run in failed:
        show(console, f"failed: {run.job.name}: {run.state.error} ({os.path.relpath(run.job.log)})")
    raise SystemExit(1 if failed else 0)


def write_report(
    console: Console,
    options: Options,
    arms: Sequence[Arm],
    runs: Sequence[MeasuredRun],
    baseline: Baseline | None,
    command: str,
) -> None:
    """Write the tables and the chart, and print the table."""
    output = Path(str(options.output))
    rows = make_rows(arms, runs, baseline)
    further = list(options.measures)
    header, lines = table(rows, baseline, options.target, further)
    shown = Table(*(Column(name, overflow="fold") for name in header))
    for line in lines:
        shown.add_row(*line)
    console.print(shown, markup=False)
    write_csv(output / "table.csv", rows, options.target, further)
    write_runs_csv(output / "runs.csv", rows)
    if options.figure:
        write_figure(output / "chart.png", rows, options.figure, further)
        chart = "Means over the seeds, from the lowest to the highest"
    else:
        write_chart(output / "chart.png", rows, output.name)
        chart = "Validation accuracy by epoch, and test accuracy of each seed"
    machines = "; ".join(sorted({run.state.hardware for run in runs if run.state.hardware}))
    threads, software = (
        sorted({getattr(run.state, name) for run in runs} - {0, ""}) for name in ("threads", "software")
    )
    parts = [
        f"# {output.name}",
        markdown_table(header, lines),
        explanation(baseline, options.seeds),
        f"![{chart}](chart.png)",
        f"`{command}`, seeds 0 to {options.seeds - 1}; "
        f"{' or '.join(counted(count, 'thread') for count in threads)} each, on {machines}; {'; '.join(software)}.",
    ]
    (output / "table.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    for name in ("table.md", "table.csv", "runs.csv", "chart.png"):
        show(console, f"{output / name}")
    show(console, f"tensorboard --logdir {output}")
