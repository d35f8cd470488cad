"""One run: its process, its state, and the effect of both. A stand-in script replaces train.py."""

import os
from pathlib import Path

import pytest

from src.compare.run import Job, execute, load_state
from tests.helpers.compare_command import is_running
from tests.helpers.standin_train import make_job, use_stand_in


@pytest.fixture(autouse=True)
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_stand_in(tmp_path, monkeypatch)


def stop_in_the_middle(job: Job) -> int:
    """Stop the run as soon as its process has written its PID, and return the PID."""
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
    """On Linux, a child's maximum starts at the memory of its parent; the parent's memory is not counted."""
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
    """Each attempt appends to the log, and only the last attempt's error is reported."""
    job = make_job(tmp_path, "--mistake=first")
    execute(job)
    again = execute(make_job(tmp_path, "--raise=second"))
    assert again.error == "ArithmeticError: second"
    assert "error: first" in job.log.read_text()


def test_the_number_of_threads_is_the_jobs(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("import os; print(os.environ['OMP_NUM_THREADS'])")
    job = make_job(tmp_path)
    execute(job)
    assert job.log.read_text() == f"{job.threads}\n"
    assert os.environ["OMP_NUM_THREADS"] == "1"
