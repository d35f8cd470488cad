"""The conformance suite: the checks that a norm has to pass to be used in place of torch's norms or beside them.

`python -m tests.norms.conform BatchNorm` runs it on one norm of the table and prints what fails.
"""

from tests.norms.conform import (  # noqa: F401 (each enters its checks)
    ecosystem,
    errors,
    folding,
    fuzzed,
    gradients,
    layout,
    nested,
    numbers,
    precision,
    processes,
    running_statistics,
    samples,
    state,
)
from tests.norms.conform.registry import CHECKS, Check
from tests.norms.conform.subjects import Subject, subjects

__all__ = ["CHECKS", "Check", "Subject", "subjects"]
