"""The progress of a comparison on the screen."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from src.compare.progress import ComparisonProgress
from src.compare.run import State, execute, save_state
from tests.helpers.standin_train import make_job, use_stand_in


@pytest.fixture(autouse=True)
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_stand_in(tmp_path, monkeypatch)


def test_a_running_run_has_a_bar_that_follows_its_validation_accuracy(tmp_path: Path) -> None:
    job = make_job(tmp_path, trainer={"max_epochs": 9})
    state = execute(job)
    save_state(job, State("started", state.first_version))
    console = Console(file=io.StringIO(), force_terminal=True, width=200)
    progress = ComparisonProgress(console, [job], 0, lambda job, state: state.status)
    progress._update_bar(job)
    assert len(progress.progress.tasks) == 1  # the state is from an earlier comparison, so there is no bar
    save_state(job, State("started", state.first_version))
    progress._update_bar(job)
    bar = progress.progress.tasks[1]
    assert (bar.description, bar.total, bar.completed) == ("BatchNorm, seed 0", 9, 3)
    assert bar.fields["note"] == "val/accuracy 0.5000"
    progress.ended(job, state)
    assert [(task.description, task.completed) for task in progress.progress.tasks] == [("runs", 1)]
    assert "1/1  BatchNorm, seed 0: finished" in console.file.getvalue()  # type: ignore[attr-defined]
