"""The result of the runs: means of each arm (one combination of options) and differences from a baseline."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from src.compare.curves import Measures, measure, read_scalars
from src.compare.estimates import Estimate, estimate, paired_difference
from src.compare.figure_spec import ACCURACY
from src.compare.grid import Arm, Axis, label_of
from src.compare.run import Job, State, run_folder


@dataclass(frozen=True)
class MeasuredRun:
    """A run that has ended, with its measures."""

    job: Job
    state: State
    measures: Measures


def read_run(
    job: Job, state: State, target: float | None = None, further: Mapping[str, str] | None = None
) -> MeasuredRun:
    """Measure a run by its TensorBoard events; see `measure` for the arguments."""
    folder = run_folder(job, state)
    return MeasuredRun(job, state, measure(read_scalars(folder.path), target, further) if folder else Measures())


@dataclass(frozen=True)
class Baseline:
    """The value of an axis with which the other values of the axis are compared; the other axes are equal."""

    axis: str
    value: str

    @property
    def name(self) -> str:
        return self.value if self.axis == "norm" else f"{self.axis}={self.value}"

    def of(self, arm: Arm) -> dict[str, str]:
        """The labels of the arm with which `arm` is compared."""
        return {**arm.labels, self.axis: self.value}


def choose_baseline(axes: Sequence[Axis], asked: str | None = "") -> Baseline | None:
    """The value that was asked for, or the first value of the first axis with several; None for a single arm.

    Args:
        axes: the axes of the grid.
        asked: the label of a value; None stands for `null`; an empty string means that the user asked for none.

    Raises:
        ValueError: no axis has the value, or several axes have it.
    """
    if asked == "":
        return next((Baseline(axis.name, axis.labels[0]) for axis in axes if len(axis.values) > 1), None)
    asked = label_of(asked)
    found = [Baseline(axis.name, asked) for axis in axes if asked in axis.labels]
    if len(found) != 1:
        values = ", ".join(label for axis in axes for label in axis.labels)
        what = "several axes have this value" if found else "no axis has this value"
        raise ValueError(f"baseline={asked}: {what}; there are: {values}")
    return found[0]


@dataclass(frozen=True)
class Row:
    """An arm with the runs of all its seeds. A mean is over the finished runs that have the value."""

    arm: Arm
    runs: Sequence[MeasuredRun]
    baseline: "Row | None" = None
    """The arm with which this one is compared; None for the baseline itself."""

    @property
    def finished(self) -> list[MeasuredRun]:
        return [run for run in self.runs if run.state.status == "finished"]

    def mean(self, name: str) -> Estimate | None:
        """The mean of a measure, which is named as in `Measures`."""
        values = [getattr(run.measures, name) for run in self.finished]
        return estimate([value for value in values if value is not None])

    def values(self, name: str) -> dict[int, float]:
        """The test accuracy, or a measure that the study asks for, of each finished run by its seed."""
        found = {
            run.job.seed: run.measures.test_accuracy if name == ACCURACY else run.measures.further.get(name)
            for run in self.finished
        }
        return {seed: value for seed, value in found.items() if value is not None}

    @property
    def peak_memory(self) -> Estimate | None:
        return estimate([float(run.state.peak_memory) for run in self.finished if run.state.peak_memory])

    @property
    def difference(self) -> Estimate | None:
        """The mean difference in test accuracy from the baseline's run of the same seed."""
        if self.baseline is None:
            return None
        return paired_difference(self.values(ACCURACY), self.baseline.values(ACCURACY))

    def count(self, status: str) -> int:
        return sum(run.state.status == status for run in self.runs)


def make_rows(arms: Sequence[Arm], runs: Sequence[MeasuredRun], baseline: Baseline | None) -> list[Row]:
    rows = [Row(arm, [run for run in runs if run.job.arm == arm.name]) for arm in arms]
    if baseline is None:
        return rows
    by_labels = {tuple(row.arm.labels.items()): row for row in rows}
    others = [by_labels[tuple(baseline.of(row.arm).items())] for row in rows]
    return [Row(row.arm, row.runs, None if other is row else other) for row, other in zip(rows, others, strict=True)]
