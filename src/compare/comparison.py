"""What the runs come to: for each arm its means over the seeds, and its differences from a baseline."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from src.compare.curves import Measures, measure, read_scalars
from src.compare.figure_spec import ACCURACY
from src.compare.grid import Arm, Axis, label_of
from src.compare.run import Job, State, version_of
from src.compare.statistics import Estimate, estimate, paired_difference


@dataclass(frozen=True)
class Run:
    """A run that has ended, with what it measured."""

    job: Job
    state: State
    measures: Measures


def read_run(job: Job, state: State, target: float | None = None, further: Mapping[str, str] | None = None) -> Run:
    version = version_of(job, state)
    return Run(job, state, measure(read_scalars(version), target, further) if version else Measures())


@dataclass(frozen=True)
class Baseline:
    """The value of an axis with which its other values are compared, all other axes being equal."""

    axis: str
    value: str

    @property
    def name(self) -> str:
        return self.value if self.axis == "norm" else f"{self.axis}={self.value}"

    def of(self, arm: Arm) -> dict[str, str]:
        """The labels of the arm that an arm is compared with."""
        return {**arm.labels, self.axis: self.value}


def choose_baseline(axes: Sequence[Axis], asked: str | None = "") -> Baseline | None:
    """The first value of the first axis that has several, or the one that was asked for; None for a single arm.

    Args:
        axes: of the grid.
        asked: the label of a value, or None for that of null; empty: none was asked for.

    Raises:
        ValueError: no axis has the value asked for, or several have.
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
    """An arm over all its seeds. A mean is over the runs that finished, and that have the value."""

    arm: Arm
    runs: Sequence[Run]
    baseline: "Row | None" = None
    """The arm that it is compared with; None for the baseline itself."""

    @property
    def finished(self) -> list[Run]:
        return [run for run in self.runs if run.state.status == "finished"]

    def mean(self, name: str) -> Estimate | None:
        """Of a measure, by its name in `Measures`."""
        values = [getattr(run.measures, name) for run in self.finished]
        return estimate([value for value in values if value is not None])

    def values(self, name: str) -> dict[int, float]:
        """By seed, of the runs that finished: test accuracy, or what the study asks for beyond the usual."""
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
        """In test accuracy, from the baseline's run of the same seed."""
        if self.baseline is None:
            return None
        return paired_difference(self.values(ACCURACY), self.baseline.values(ACCURACY))

    def count(self, status: str) -> int:
        return sum(run.state.status == status for run in self.runs)


def make_rows(arms: Sequence[Arm], runs: Sequence[Run], baseline: Baseline | None) -> list[Row]:
    rows = [Row(arm, [run for run in runs if run.job.arm == arm.name]) for arm in arms]
    if baseline is None:
        return rows
    by_labels = {tuple(row.arm.labels.items()): row for row in rows}
    others = [by_labels[tuple(baseline.of(row.arm).items())] for row in rows]
    return [Row(row.arm, row.runs, None if other is row else other) for row, other in zip(rows, others, strict=True)]
