"""Every norm of the table goes through the whole conformance suite."""

import pytest

from src.norms import NORMS
from tests.norms.conform import CHECKS, Check, Subject, subjects

ALL = subjects(name for name in NORMS if not name.startswith("Torch"))


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
    check.run(subject)
