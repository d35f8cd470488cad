"""The layers on which the fuzzer has found a fault."""

from tests.norms.conform.registry import check
from tests.norms.conform.subjects import Subject
from tests.norms.fuzz import compare
from tests.norms.fuzz.found import FOUND
from tests.norms.fuzz.trial import Trial


def found_on(subject: Subject) -> list[Trial]:
    return [trial for trial in FOUND if isinstance(trial, Trial) and trial.norm == subject.name]


@check(lambda subject: bool(found_on(subject)))
def found_by_fuzzing(subject: Subject) -> None:
    """The layers on which the fuzzer has found a fault are right."""
    for trial in found_on(subject):
        compare.check(trial, "kernels", subject.norms)
