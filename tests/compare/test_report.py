"""The tables and the chart of runs with known numbers."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from src.compare.chart import write_chart
from src.compare.comparison import Baseline, MeasuredRun, Row, choose_baseline, make_rows
from src.compare.curves import Measures, read_further
from src.compare.figure import write_figure
from src.compare.figure_spec import FigureSpec
from src.compare.grid import make_arms, make_axes
from src.compare.report import table
from src.compare.run import Job, State
from tests.helpers.errors import error_is

AXES = make_axes({"model.norm": "A,B", "data.batch_size": [16, 64]})
ARMS = make_arms(AXES, {})


def make_run(
    arm: str,
    seed: int,
    accuracy: float,
    status: Literal["finished", "diverged", "failed"] = "finished",
    epochs: int = 2,
) -> MeasuredRun:
    job = Job(arm, seed, Path("runs"), (), {}, threads=1, working_folder=Path())
    measures = Measures(accuracy, None if accuracy < 0.5 else epochs, 1.5, 10.0, {1: 0.25, 2: accuracy})
    return MeasuredRun(job, State(status, 0, peak_memory=2**30), measures)


RUNS = [
    *[make_run("A, batch_size=16", seed, 0.90 + seed / 100) for seed in range(3)],
    *[make_run("A, batch_size=64", seed, 0.80) for seed in range(3)],
    *[make_run("B, batch_size=16", seed, 0.92 + seed / 50) for seed in range(3)],
    *[make_run("B, batch_size=64", 0, 0.1, "diverged"), make_run("B, batch_size=64", 1, 0.4)],
    make_run("B, batch_size=64", 2, 0.1, "failed"),
]


def make_table(baseline: Baseline | None) -> dict[tuple[str, ...], dict[str, str]]:
    header, lines = table(make_rows(ARMS, RUNS, baseline), baseline, target=0.5)
    return {tuple(line[:2]): dict(zip(header[2:], line[2:], strict=True)) for line in lines}


def test_the_table_pairs_arms_that_differ_in_the_norm_alone() -> None:
    found = make_table(choose_baseline(AXES))
    differences = {arm: row["difference from A [95% interval]"] for arm, row in found.items()}
    assert differences == {
        ("A", "16"): "baseline",
        ("A", "64"): "baseline",
        ("B", "16"): "+0.0300 [+0.0052, +0.0548]",  # 0.02, 0.03, 0.04: 4.303 * 0.01 / sqrt(3)
        ("B", "64"): "-0.4000 (one seed)",
    }
    assert found["A", "16"]["test accuracy"] == "0.9100 ± 0.0100"
    assert found["A", "16"]["peak memory, MiB"] == "1024 ± 0"


def test_a_gpus_memory_has_a_column_where_a_run_had_one() -> None:
    arms = make_arms(make_axes({"model.norm": "A,B"}), {})
    runs = [make_run("A", 0, 0.9), make_run("B", 0, 0.9)]
    assert "peak GPU memory, MiB" not in table(make_rows(arms, runs, None), None, None)[0]
    runs[1] = replace(runs[1], measures=replace(runs[1].measures, peak_gpu_memory_mib=512.4))
    header, lines = table(make_rows(arms, runs, None), None, None)
    column = header.index("peak GPU memory, MiB")
    assert [line[column] for line in lines] == ["–", "512"]  # noqa: RUF001


def test_fewer_pairs_than_seeds_are_counted() -> None:
    rows = make_rows(ARMS, [run for run in RUNS if run.job.name != "B, batch_size=16, seed 0"], Baseline("norm", "A"))
    rows[2] = replace(rows[2], runs=[*rows[2].runs, make_run("B, batch_size=16", 0, 0.1, "diverged")])
    header, lines = table(rows, Baseline("norm", "A"), target=None)
    column = header.index("difference from A [95% interval]")
    assert lines[2][column] == "+0.0350 [-0.0285, +0.0985] (2 of 3 pairs)"  # 0.03, 0.04: 12.706 * 0.00707 / sqrt(2)


def test_what_did_not_finish_is_counted_and_in_no_mean() -> None:
    row = make_table(None)["B", "64"]
    assert row["test accuracy"] == "0.4000"
    assert row["runs"] == "1 finished, 1 diverged, 1 failed"
    assert row["epochs to 0.5"] == "–"  # noqa: RUF001
    assert make_table(None)["A", "16"]["epochs to 0.5"] == "2.0 ± 0.0"


def test_the_baseline_can_be_a_value_of_another_axis() -> None:
    found = make_table(choose_baseline(AXES, "64"))
    assert found["A", "16"]["difference from batch_size=64 [95% interval]"].startswith("+0.1100 [")
    assert found["B", "64"]["difference from batch_size=64 [95% interval]"] == "baseline"


def test_a_baseline_that_is_not_there() -> None:
    with error_is(ValueError, "baseline=C: no axis has this value; there are: A, B, 16, 64"):
        choose_baseline(AXES, "C")
    assert choose_baseline(make_axes({"model.norm": "A"})) is None
    assert choose_baseline(make_axes({"model.norm": ["A", None]}), None) == Baseline("norm", "null")


@pytest.mark.parametrize("num_arms", [1, 4])
def test_the_chart_is_drawn_whatever_finished(num_arms: int, tmp_path: Path) -> None:
    rows = make_rows(ARMS, RUNS, None)[-num_arms:]
    nothing = Row(ARMS[0], [], None)
    write_chart(tmp_path / "chart.png", [*rows, nothing], "title")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


def test_what_a_study_measures_beyond_the_usual() -> None:
    """A measure is the mean of all matching tags, or the last value. Values that are not finite are skipped."""
    curves = {
        "norms/eval_gap/a": [(1, 0.0, 0.1), (2, 0.0, 0.3), (3, 0.0, math.nan)],
        "norms/eval_gap/b": [(1, 0.0, 0.6)],
        "train/accuracy": [(1, 0.0, 0.5), (2, 0.0, 0.75)],
    }
    asked = {"gap": "norms/eval_gap/*", "train": "train/accuracy[-1]", "absent": "norms/none"}
    assert read_further(curves, asked) == {"gap": pytest.approx(0.4), "train": 0.75}


def test_measures_stand_in_the_table_and_the_figure(tmp_path: Path) -> None:
    runs = [replace(run, measures=replace(run.measures, further={"gap": 1 + run.job.seed / 1000})) for run in RUNS]
    rows = make_rows(ARMS, runs, None)
    header, lines = table(rows, None, None, ["gap"])
    assert lines[0][header.index("gap")] == "1 ± 0.001"
    for spec in (
        FigureSpec(x="batch_size", lines="norm", y="gap"),
        FigureSpec(x="batch_size", lines="norm", panels="measures"),
        FigureSpec(x="measures", lines="norm", panels="batch_size", log=True),
    ):
        spec.check(AXES, ["gap"])
        path = tmp_path / "figure.png"
        write_figure(path, rows, spec, ["gap"])
        assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (FigureSpec(x="epoch"), "figure.x=epoch: expected one of norm, batch_size, measures"),
        (FigureSpec(x="norm", y="loss"), "figure shows 'loss': expected one of test accuracy, gap"),
        (FigureSpec(x="norm"), "figure does not show batch_size: name it in x, lines or panels"),
    ],
)
def test_figures_of_what_is_not_there_are_refused(spec: FigureSpec, message: str) -> None:
    with error_is(ValueError, message):
        spec.check(AXES, ["gap"])
