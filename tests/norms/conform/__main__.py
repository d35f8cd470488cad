"""Run the suite on one norm: `python -m tests.norms.conform BatchNorm`."""

import argparse
import sys
import time
import warnings

import torch

from src.norms import NORMS
from tests.norms.conform import CHECKS, Subject, subjects

LINES = 12  # of a failure: further lines are internal messages of the compiler


def report(subject: Subject, only: str | None) -> int:
    """Print the checks that the subject fails; return their number."""
    checks = [check for check in CHECKS.values() if check.applies(subject) and only in (None, check.name)]
    start = time.monotonic()
    failures = {check: why for check in checks if (why := check.failure(subject)) is not None}
    seconds = time.monotonic() - start
    passed = f"{len(checks) - len(failures)} of {len(checks)} checks passed in {seconds:.0f} s"
    print(f"{subject.name}: {passed if checks else 'no check applies'}")
    for check, why in failures.items():
        print(f"  FAILED {check.name}: {check.meaning}")
        print(*(f"    {line}" for line in why.splitlines()[:LINES] if line.strip()), sep="\n")
    return len(failures)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.norms.conform",
        description="Put a norm of the table through the conformance suite: its drop-in classes against torch's, and "
        "its layers for maps and for tokens. Exit code 1: a check failed.",
    )
    parser.add_argument("norm", choices=NORMS, metavar="NORM", help=f"one of {', '.join(NORMS)}")
    parser.add_argument("--only", choices=CHECKS, metavar="CHECK", help=f"one of {', '.join(CHECKS)}")
    arguments = parser.parse_args()

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)  # the inputs are tiny
    failed = sum(report(subject, arguments.only) for subject in subjects([arguments.norm]))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
