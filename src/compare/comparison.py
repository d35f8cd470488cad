"""What the runs come to: for each arm its means over the seeds, and its differences from a baseline."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from src.compare.curves import Measures, measure, read_scalars
from src.compare.grid import Arm, Axis
from src.compare.layout import ACCURACY
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


def choose_baseline(axes: Sequence[Axis], asked: str | None) -> Baseline | None:
    """The first value of the first axis that has several, or the one that was asked for; None for a single arm.

    Raises:
        ValueError: no axis has the value asked for, or several have.
    """
    if asked is None:
        return next((Baseline(axis.name, axis.labels[0]) for axis in axes if len(axis.values) > 1), None)
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
    baseline: Sequence[Run] | None
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
        if name == ACCURACY:
            return accuracies(self.runs)
        return {r.job.seed: r.measures.further[name] for r in self.finished if name in r.measures.further}

    @property
    def peak_memory(self) -> Estimate | None:
        return estimate([float(run.state.peak_memory) for run in self.finished])

    @property
    def difference(self) -> Estimate | None:
        """In test accuracy, from the baseline's run of the same seed."""
        return None if self.baseline is None else paired_difference(accuracies(self.runs), accuracies(self.baseline))

    def count(self, status: str) -> int:
        return sum(run.state.status == status for run in self.runs)


def accuracies(runs: Sequence[Run]) -> dict[int, float]:
    """Test accuracy by seed, of the runs that finished."""
    finished = [run for run in runs if run.state.status == "finished"]
    return {run.job.seed: run.measures.test_accuracy for run in finished if run.measures.test_accuracy is not None}


def make_rows(arms: Sequence[Arm], runs: Sequence[Run], baseline: Baseline | None) -> list[Row]:
    by_arm = {arm.name: [run for run in runs if run.job.arm == arm.name] for arm in arms}
    names = {tuple(arm.labels.items()): arm.name for arm in arms}
    rows = []
    for arm in arms:
        other = None if baseline is None else names[tuple(baseline.of(arm).items())]
        rows.append(Row(arm, by_arm[arm.name], None if other in (None, arm.name) else by_arm[other]))
    return rows
