"""Several runs on this machine, one of which fails or is interrupted."""

from pathlib import Path

import pytest

from src.compare.executors import run_here
from src.compare.run import Job, State, load_state
from tests.helpers.compare_command import is_running
from tests.helpers.standin_train import make_job, use_stand_in


@pytest.fixture(autouse=True)
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_stand_in(tmp_path, monkeypatch)


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
