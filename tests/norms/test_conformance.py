"""Every norm of the table goes through the whole conformance suite."""

import pytest

from src.norms import NORMS
from tests.norms.capabilities import TABLE, passes, table
from tests.norms.conform import CHECKS, Check, Subject, subjects

ALL = subjects(name for name in NORMS if not name.startswith("Torch"))
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


def test_the_table_says_what_was_found() -> None:
    def result(subject: Subject, name: str) -> bool | None:
        key = (subject.name, name)
        if key not in RESULTS:
            RESULTS[key] = passes(subject, name)
        return RESULTS[key]

    assert TABLE.read_text() == table(result), "run `make capabilities`"
