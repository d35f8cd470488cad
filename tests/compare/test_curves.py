"""Curves read from event files."""

import math
import time
from pathlib import Path

import pytest
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from src.compare import read_scalars
from src.compare.curves import diverged, measure

Points = list[tuple[int, float, float]]


def write_events(folder: Path, begun: int, curves: dict[str, Points]) -> None:
    """Write an event file that begins at second `begun`. Points are `(step, second, value)`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time", lambda: float(begun))
        writer = EventFileWriter(str(folder))
        writer.flush()
    points = [(step, second, tag, value) for tag, each in curves.items() for step, second, value in each]
    for step, second, tag, value in sorted(points, key=lambda point: point[1]):
        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
        writer.add_event(Event(wall_time=second, step=step, summary=summary))
    writer.close()
    (written,) = (path for path in folder.iterdir() if not path.name.endswith("at_host"))
    written.rename(folder / f"events.out.tfevents.{begun}.at_host")


def test_every_point_is_read(tmp_path: Path) -> None:
    """The reader returns all 20,000 points, more than TensorBoard keeps for a chart."""
    write_events(tmp_path, 100, {"train/loss": [(step, 100 + step / 100, 1 / (1 + step)) for step in range(20_000)]})
    losses = read_scalars(tmp_path)["train/loss"]
    assert [step for step, _, _ in losses] == list(range(20_000))
    assert losses[3][2] == pytest.approx(0.25)


def test_a_run_that_went_on_has_each_step_once_and_no_time_in_between(tmp_path: Path) -> None:
    write_events(
        tmp_path, 100, {"train/loss": [(5, 100, 9.0), (10, 102, 8.0), (15, 104, 7.0)], "epoch": [(10, 102, 0)]}
    )
    write_events(tmp_path, 900, {"train/loss": [(15, 900, 7.5), (20, 903, 6.0)], "epoch": [(20, 903, 1)]})
    write_events(tmp_path, 950, {"hp/test/accuracy": [(0, 950, 0.5)]})  # the HPARAMS page has its own file
    curves = read_scalars(tmp_path)
    assert [(step, value) for step, _, value in curves["train/loss"]] == [(5, 9.0), (10, 8.0), (15, 7.5), (20, 6.0)]
    assert [seconds for _, seconds, _ in curves["train/loss"]] == [0, 2, 2, 5]
    assert [step for step, _, _ in curves["epoch"]] == [10, 20]


def test_measures(tmp_path: Path) -> None:
    curves: dict[str, Points] = {
        "epoch": [(10, 2, 0), (20, 4, 1), (30, 6, 2)],
        "val/accuracy": [(10, 2.5, 0.5), (20, 4.5, 0.9), (30, 6.5, 0.8)],
        "test/accuracy": [(30, 7, 0.85)],
        "train/seconds_per_step": [(10, 2, 0.5), (20, 4, 0.01), (30, 6, 0.02)],
    }
    found = measure(curves, target=0.75)
    assert (found.test_accuracy, found.epochs_to_target, found.seconds_to_target) == (0.85, 2, 4.5)
    assert found.ms_per_step == pytest.approx(20)
    assert found.val_accuracy == {1: 0.5, 2: 0.9, 3: 0.8}
    missed = measure(curves, target=0.95)
    assert (missed.epochs_to_target, missed.seconds_to_target) == (None, None)
    assert measure({}, target=0.95).test_accuracy is None


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_divergence_and_a_low_score_is_not(value: float) -> None:
    assert diverged({"train/loss": [(1, 0, 2.3), (2, 0, value)]})
    assert not diverged({"train/loss": [(1, 0, 2.3)], "test/accuracy": [(2, 1, 0.1)]})


def test_a_score_whose_epoch_is_not_written_yet_waits_for_it() -> None:
    curves = {"epoch": [(10, 1.0, 0.0)], "val/accuracy": [(10, 1.0, 0.5), (20, 2.0, 0.75)]}
    assert measure(curves).val_accuracy == {1: 0.5}
