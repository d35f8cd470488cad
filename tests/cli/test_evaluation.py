"""Scores and predictions do not depend on the number of processes, even if it does not divide the split."""

import csv
import re
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from src.cli.predictions import gather_predictions
from tests.helpers.ranks import Ranks
from tests.helpers.train_command import PLAIN, run_here
from tests.helpers.train_jobs import Done, run_jobs

# The test split has 271 images: the processes have 136 and 135, or 91, 90 and 90. With batches of 45, the first process
# has one batch more. The validation split has 229: 115 and 114. With batches of 38, the first has one batch more, too.
SPLITS = ["--data.test_fraction=0.1506", "--data.val_fraction=0.12743"]
DIGITS = ["--config=configs/digits.yaml", "--model.width=8", "--data.crop_padding=0", *SPLITS, *PLAIN]
SHORT = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=8", "--data.batch_size=38"]
BEST = "runs/digits/version_0/checkpoints/best.ckpt"
NUM_TEST = 271


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Done]]:
    """The folder and the results of several runs, one after the other, each with several processes."""
    folder = tmp_path_factory.mktemp("ranks")
    use = [*DIGITS, "--ckpt_path=best", "--data.batch_size=45"]
    short = ["fit", *DIGITS, *SHORT, "--trainer.logger=false", "--trainer.enable_checkpointing=false"]
    asked: dict[str, tuple[int, list[str]]] = {
        "fit": (2, ["fit", *DIGITS, *SHORT]),
        "test 2": (2, ["test", *use]),
        "test 3": (3, ["test", *use]),
        "predict 3": (3, ["predict", *use]),
        "some batches": (2, ["validate", *use, "--trainer.limit_val_batches=1"]),
        "a share of the batches": (2, [*short, "--trainer.limit_val_batches=0.5"]),
        "overfitting": (2, [*short, "--trainer.overfit_batches=2"]),
        "a try": (2, [*short, "--trainer.fast_dev_run=true"]),
        "more processes than samples": (3, [*short, "--data.val_fraction=0.001"]),
    }
    done = run_jobs(folder, list(asked.values()))
    return folder, dict(zip(asked, done, strict=True))


def scores(shown: str) -> dict[str, float]:
    return {name: float(value) for name, value in re.findall(r"((?:test|val)/\w+)\s+│\s+([\d.]+)", shown)}


def test_each_number_of_processes_gives_the_same_test_scores(
    jobs: tuple[Path, dict[str, Done]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, done = jobs
    run_here(monkeypatch, folder, "test", *DIGITS, "--data.batch_size=45", "--ckpt_path=best")
    one = scores(capsys.readouterr().out)
    assert set(one) == {"test/loss", "test/accuracy", "test/f1"}
    right = one["test/accuracy"] * NUM_TEST
    assert right == pytest.approx(round(right), abs=1e-4)
    assert 0.2 < one["test/accuracy"] < 0.99  # some predictions are right, and some are wrong
    for several in (done["test 2"], done["test 3"]):
        assert set(several.codes) == {0}, several.shown
        found = scores(several.shown)
        assert (found["test/accuracy"], found["test/f1"]) == (one["test/accuracy"], one["test/f1"])
        assert found["test/loss"] == pytest.approx(one["test/loss"], rel=1e-6)


def test_validation_during_training_is_that_of_the_checkpoint(
    jobs: tuple[Path, dict[str, Done]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Validation takes the saved running statistics, though each process has its own in training, at any batch size."""
    folder, done = jobs
    assert done["fit"].codes == [0, 0], done["fit"].shown
    logged = EventAccumulator(str(folder / "runs/digits/version_0")).Reload()
    run_here(monkeypatch, folder, "validate", *DIGITS, "--ckpt_path=best")
    for name, value in scores(capsys.readouterr().out).items():
        assert logged.Scalars(name)[0].value == pytest.approx(value, rel=1e-5), name


def test_predictions_of_several_processes_are_in_the_datas_order(
    jobs: tuple[Path, dict[str, Done]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, done = jobs
    assert set(done["predict 3"].codes) == {0}, done["predict 3"].shown
    path = folder / BEST.replace("best.ckpt", "predictions.csv")

    def rows() -> list[dict[str, str]]:
        with path.open() as file:
            return list(csv.DictReader(file))

    several = rows()
    run_here(monkeypatch, folder, "predict", *DIGITS, "--ckpt_path=best")
    one = rows()
    assert len(one) == NUM_TEST
    assert [(row["sample"], row["class"]) for row in several] == [(row["sample"], row["class"]) for row in one]
    for mine, theirs in zip(several, one, strict=True):
        assert float(mine["probability"]) == pytest.approx(float(theirs["probability"]), abs=2e-4)


def gathered(lengths: list[int]) -> list[int]:
    rank, world_size = dist.get_rank(), dist.get_world_size()
    share = torch.arange(lengths[rank]) * world_size + rank
    return gather_predictions(share).tolist()


@pytest.mark.slow
def test_predictions_up_to_the_first_that_is_missing() -> None:
    with Ranks(2) as ranks:
        for lengths, num_samples in [([3, 2], 5), ([2, 2], 4), ([90, 45], 91), ([45, 90], 90)]:
            for found in ranks(2, gathered, lengths):
                assert found == list(range(num_samples)), lengths


@pytest.mark.parametrize("limits", ["some batches", "a share of the batches", "overfitting", "a try"])
def test_limits_leave_no_process_waiting(jobs: tuple[Path, dict[str, Done]], limits: str) -> None:
    done = jobs[1][limits]
    assert done.codes == [0, 0], done.shown


def test_a_process_without_samples_is_refused(jobs: tuple[Path, dict[str, Done]]) -> None:
    done = jobs[1]["more processes than samples"]
    assert done.codes == [2, 2, 2]
    assert "2 samples for 3 processes: expected at least one for each" in done.shown
