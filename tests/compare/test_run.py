"""One run: its process, its state, and what follows from both. A script that imports little stands in for train.py."""

import io
import os
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from src.compare.executors import run_here
from src.compare.progress import ComparisonProgress
from src.compare.run import Job, State, execute, load_state, save_state
from tests.compare.commands import is_running

STAND_IN = """
import os, sys, time, zipfile
from pathlib import Path
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

options = dict(argument[2:].partition("=")[::2] for argument in sys.argv[2:])
folder = Path(options["trainer.default_root_dir"], options["experiment"])
versions = sorted(folder.glob("version_*"))
resumed = "ckpt_path" in options
version = versions[-1] if resumed else folder / f"version_{len(versions)}"
(version / "checkpoints").mkdir(parents=True, exist_ok=True)
if options.get("hang"):
    if options["hang"] == "after a checkpoint":
        zipfile.ZipFile(version / "checkpoints/last.ckpt", "w").close()
    if options["hang"] == "in a checkpoint":
        (version / "checkpoints/last.ckpt").write_bytes(b"PK")
    (folder / "pid").write_text(str(os.getpid()))
    time.sleep(600)
if options.get("raise"):
    print("Epoch 1", flush=True)
    raise ArithmeticError(options["raise"])
if options.get("mistake"):
    print("error: " + options["mistake"], file=sys.stderr)
    print("a line more", file=sys.stderr)
    sys.exit(2)
if options.get("exit"):
    print("the last line")
    sys.exit(int(options["exit"]))
if options.get("kill"):
    os.kill(os.getpid(), 9)
writer = EventFileWriter(str(version))
scalars = {"train/loss": float(options.get("loss", 1)), "val/accuracy": 0.5, "epoch": 2}
if "untested" not in options:
    scalars["test/accuracy"] = 0.25 if resumed else 0.75
for tag, value in scalars.items():
    summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
    writer.add_event(Event(wall_time=time.time(), step=1, summary=summary))
writer.close()
"""


@pytest.fixture(autouse=True)
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train.py").write_text(STAND_IN)
    monkeypatch.setattr("src.compare.run.REPOSITORY", tmp_path)


def make_job(folder: Path, *flags: str, seed: int = 0, **options: Any) -> Job:
    return Job("BatchNorm", seed, folder / f"BatchNorm/seed_{seed}", flags, options, threads=1, working_folder=folder)


def stop_in_the_middle(job: Job) -> int:
    """Stop the run when its process says that it is there; its PID."""
    written = job.folder / "pid"
    with pytest.raises(KeyboardInterrupt):
        execute(job, stopped=lambda: written.is_file() and bool(written.read_text()))
    pid = int(written.read_text())
    written.unlink()
    return pid


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    state = execute(job)
    assert (state.status, state.first_version) == ("finished", 0)
    before = {path: path.stat().st_mtime_ns for path in job.folder.rglob("*")}
    assert execute(job) == load_state(job) == state
    assert {path: path.stat().st_mtime_ns for path in job.folder.rglob("*")} == before


def test_the_peak_memory_is_the_runs_own(tmp_path: Path) -> None:
    """And not of the process that started it, with which a child's maximum begins on Linux."""
    large = b"x" * 2**29
    assert 2**23 < execute(make_job(tmp_path)).peak_memory < len(large)


def test_a_run_that_diverged_is_not_run_again(tmp_path: Path) -> None:
    state = execute(make_job(tmp_path, "--loss=inf"))
    assert execute(make_job(tmp_path, "--raise=it ran")) == state


def test_other_options_are_another_run_beside_the_first(tmp_path: Path) -> None:
    execute(make_job(tmp_path, lr=0.1))
    changed = make_job(tmp_path, lr=0.2)
    assert load_state(changed) is None
    assert execute(changed).first_version == 1
    assert sorted(path.name for path in changed.folder.glob("version_*")) == ["version_0", "version_1"]
    assert "ckpt_path" not in str(changed.flags)


def test_a_run_that_was_stopped_goes_on(tmp_path: Path) -> None:
    pid = stop_in_the_middle(make_job(tmp_path, "--hang=after a checkpoint"))
    assert not is_running(pid)
    job = make_job(tmp_path)
    state = load_state(job)
    assert state
    assert state.status == "started"
    assert execute(job).status == "finished"
    assert [path.name for path in job.folder.glob("version_*")] == ["version_0"]
    assert job.log.read_text() == ""


@pytest.mark.parametrize("when", ["before", "in a checkpoint"])
def test_a_run_that_was_stopped_before_its_first_checkpoint_starts_again(when: str, tmp_path: Path) -> None:
    stop_in_the_middle(make_job(tmp_path, f"--hang={when}"))
    job = make_job(tmp_path)
    (left,) = job.folder.glob("version_*")
    (left / "leads nowhere").touch()
    assert execute(job).status == "finished"
    assert not (job.folder / "version_0/leads nowhere").exists()


def test_a_stopped_run_of_other_options_is_not_gone_on_with(tmp_path: Path) -> None:
    stop_in_the_middle(make_job(tmp_path, "--hang=after a checkpoint", lr=0.1))
    execute(make_job(tmp_path, lr=0.2))
    assert len(list((tmp_path / "BatchNorm/seed_0").glob("version_*"))) == 2


@pytest.mark.parametrize(
    ("flag", "status", "error"),
    [
        ("--raise=no such thing", "failed", "ArithmeticError: no such thing"),
        ("--mistake=num_groups=7: expected a divisor", "failed", "num_groups=7: expected a divisor"),
        ("--kill=yes", "failed", "ended by SIGKILL"),
        ("--exit=143", "failed", "ended by SIGTERM"),
        ("--untested=yes", "failed", "no test accuracy: train.py ended without testing"),
        ("--loss=nan", "diverged", ""),
    ],
)
def test_how_a_run_ends(flag: str, status: str, error: str, tmp_path: Path) -> None:
    state = execute(make_job(tmp_path, flag))
    assert (state.status, state.error) == (status, error)


def test_a_failed_run_is_tried_again(tmp_path: Path) -> None:
    """With its own log, so that an old error is not taken for a new one."""
    job = make_job(tmp_path, "--mistake=first")
    execute(job)
    again = execute(make_job(tmp_path, "--raise=second"))
    assert again.error == "ArithmeticError: second"
    assert "error: first" in job.log.read_text()


def test_a_running_run_has_a_bar_that_follows_its_validation_accuracy(tmp_path: Path) -> None:
    job = make_job(tmp_path, trainer={"max_epochs": 9})
    state = execute(job)
    save_state(job, State("started", state.first_version))
    console = Console(file=io.StringIO(), force_terminal=True, width=200)
    progress = ComparisonProgress(console, [job], 0, lambda job, state: state.status)
    progress._update_bar(job)
    assert len(progress.progress.tasks) == 1  # an earlier comparison started it
    save_state(job, State("started", state.first_version))
    progress._update_bar(job)
    bar = progress.progress.tasks[1]
    assert (bar.description, bar.total, bar.completed) == ("BatchNorm, seed 0", 9, 3)
    assert bar.fields["note"] == "val/accuracy 0.5000"
    progress.ended(job, state)
    assert [(task.description, task.completed) for task in progress.progress.tasks] == [("runs", 1)]
    assert "1/1  BatchNorm, seed 0: finished" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_failure_does_not_stop_the_others(tmp_path: Path) -> None:
    flags = {0: "--loss=1", 1: "--raise=this one", 2: "--loss=2"}
    ended: dict[int, State] = {}
    jobs = [make_job(tmp_path, flag, seed=seed) for seed, flag in flags.items()]
    run_here(jobs, 2, lambda job, state: ended.update({job.seed: state}))
    assert {seed: state.status for seed, state in ended.items()} == {0: "finished", 1: "failed", 2: "finished"}


def test_a_run_whose_folder_cannot_be_made_does_not_stop_the_others(tmp_path: Path) -> None:
    ended: dict[int, State] = {}
    (tmp_path / "BatchNorm").mkdir()
    (tmp_path / "BatchNorm/seed_0").touch()
    run_here([make_job(tmp_path), make_job(tmp_path, seed=1)], 1, lambda job, state: ended.update({job.seed: state}))
    assert {seed: state.status for seed, state in ended.items()} == {0: "failed", 1: "finished"}
    assert ended[0].error.startswith("FileExistsError: ")


def test_an_interruption_ends_what_runs_and_starts_nothing_more(tmp_path: Path) -> None:
    first = make_job(tmp_path, "--loss=1")
    others = [make_job(tmp_path, "--hang=before", seed=seed) for seed in (1, 2, 3)]

    def interrupt(job: Job, state: State) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_here([first, *others], 2, interrupt)
    finished = load_state(first)
    assert finished
    assert finished.status == "finished"
    started = [path for path in tmp_path.rglob("pid") if path.read_text()]
    assert not any(is_running(int(path.read_text())) for path in started)
    assert not (others[-1].folder / "run.json").exists()


def test_the_number_of_threads_is_the_jobs(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("import os; print(os.environ['OMP_NUM_THREADS'])")
    job = make_job(tmp_path)
    execute(job)
    assert job.log.read_text() == f"{job.threads}\n"
    assert os.environ["OMP_NUM_THREADS"] == "1"
