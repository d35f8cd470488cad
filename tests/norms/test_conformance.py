"""Each of our norms passes each check of the conformance suite that applies to it."""

import pytest

from src.norms import NORMS
from src.norms.kernels.setting import use_kernels
from tests.norms.capabilities import TABLE, passes, table
from tests.norms.conform import CHECKS, Check, Subject, subjects

ALL = subjects(name for name in NORMS if not name.startswith("Torch"))
OF_KERNELS = (
    *("precision_in_float32", "precision_in_bfloat16", "mixed_precision", "output_dtype", "half_statistics_in_float32"),
    *("offset_data", "offset_statistics", "saved_bytes"),
)
RESULTS: dict[tuple[str, str], bool | None] = {}


@pytest.mark.parametrize(
    ("subject", "check"),
    [
        pytest.param(subject, check, id=f"{subject.name}-{check.name}")
        for subject in ALL
        for check in CHECKS.values()
        if check.applies(subject)
    ],
)
def test_conforms(subject: Subject, check: Check) -> None:
    RESULTS[subject.name, check.name] = False
    check.run(subject)
    RESULTS[subject.name, check.name] = True


@pytest.mark.parametrize("subject", ALL, ids=lambda subject: subject.name)
def test_the_formula_conforms(subject: Subject) -> None:
    """With kernels turned off, the formula passes the checks in float32 and bfloat16 that normally run kernels."""
    with use_kernels(False):
        for name in OF_KERNELS:
            if CHECKS[name].applies(subject):
                CHECKS[name].run(subject)


def test_the_table_says_what_was_found() -> None:
    def result(subject: Subject, name: str) -> bool | None:
        key = (subject.name, name)
        if key not in RESULTS:
            RESULTS[key] = passes(subject, name)
        return RESULTS[key]

    assert TABLE.read_text() == table(result), "run `make capabilities`"
