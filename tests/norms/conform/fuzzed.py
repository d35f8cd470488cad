"""The layers on which the fuzzer has found a fault."""

from importlib import import_module
from typing import Any

from tests.norms.conform.registry import check
from tests.norms.conform.subjects import Subject


def found_on(subject: Subject) -> list[Any]:
    # Not at the top: the fuzzer imports the subjects, so this package.
    found = import_module("tests.norms.fuzz.found").FOUND
    return [trial for trial in found if getattr(trial, "norm", None) == subject.name]


@check(lambda subject: bool(found_on(subject)))
def found_by_fuzzing(subject: Subject) -> None:
    """The layers on which the fuzzer has found a fault are right."""
    compare = import_module("tests.norms.fuzz.compare")
    for trial in found_on(subject):
        compare.check(trial, "kernels", subject.norms)
