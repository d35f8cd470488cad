"""Try random layers for some minutes: `python -m tests.norms.fuzz --minutes 30`."""

import argparse
import os
import secrets
import subprocess
import sys
import time
from collections import Counter

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.norms.fuzz.axes import AxesTrial, axes_trials
from tests.norms.fuzz.compare import check
from tests.norms.fuzz.trial import DTYPES, Trial, trials

SHARES = {"kernels": 0.45, "formula": 0.25, "triton": 0.2, "compiled": 0.1}  # of the time
ROUNDS = {"kernels": 200, "formula": 200, "triton": 5, "compiled": 5}  # trials between two looks at the clock
SNIPPET = """\
from tests.norms.fuzz.axes import AxesTrial
from tests.norms.fuzz.compare import check
from tests.norms.fuzz.layout import Layout
from tests.norms.fuzz.trial import Trial

check({trial!r}, {backend!r})
"""


def run(backend: str, number: int, start: int) -> tuple[int, str | None]:
    """Try `number` layers from a seed. Return how many were tried before the first failure, and that one, shrunk."""
    tried = 0
    failed: list[tuple[Trial | AxesTrial, Exception]] = []
    strategy: st.SearchStrategy[Trial | AxesTrial] = trials(DTYPES[1:] if backend == "triton" else DTYPES)
    if backend in ("kernels", "triton"):
        strategy = strategy | axes_trials()

    @seed(start)
    @settings(
        max_examples=number,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    @given(strategy)
    def each(trial: Trial | AxesTrial) -> None:
        nonlocal tried
        tried += not failed
        try:
            check(trial, backend)
        except Exception as error:
            failed.append((trial, error))
            raise

    try:
        each()
    except Exception:
        if not failed:
            raise
        trial, error = failed[-1]  # the simplest, which hypothesis tries last
        snippet = SNIPPET.format(trial=trial, backend=backend)
        reason = f"{type(error).__name__}: {error}".replace("\n", "\n# ")
        return tried, f"{snippet}# {reason}"
    return tried, None


def fuzz(backend: str, minutes: float, start: int) -> int:
    """Try layers until the time is over, print what was found, and return the number of failures."""
    until, counts = time.monotonic() + 60 * minutes, Counter[str]()
    while time.monotonic() < until:
        tried, failure = run(backend, ROUNDS[backend], start + counts["rounds"])
        counts["rounds"] += 1
        counts["layers"] += tried
        if failure is not None:
            counts["failures"] += 1
            print(f"--- {backend}, a failure with seed {start + counts['rounds'] - 1}\n{failure}\n", flush=True)
    print(f"{backend}: {counts['layers']} layers tried, {counts['failures']} failures (first seed {start})", flush=True)
    return counts["failures"]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.norms.fuzz",
        description="Put random layers beside torch's, with each backend. Exit code 1: a layer failed.",
    )
    parser.add_argument("--minutes", type=float, default=10, help="for all backends together")
    parser.add_argument("--backend", choices=SHARES, help="only this one")
    parser.add_argument("--seed", type=int, help="default: another one each time")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # the inputs are tiny
    start = secrets.randbelow(1_000_000_000) if arguments.seed is None else arguments.seed
    if arguments.backend is not None:
        sys.exit(1 if fuzz(arguments.backend, arguments.minutes, start) else 0)
    failed = False
    for backend, share in SHARES.items():
        options = ("--backend", backend, "--minutes", str(arguments.minutes * share), "--seed", str(start))
        triton = {"LIGHTNING_NORMS_KERNELS": "triton", "TRITON_INTERPRET": "1"} if backend == "triton" else {}
        command = [sys.executable, "-m", "tests.norms.fuzz", *options]
        failed |= subprocess.run(command, env={**os.environ, **triton}).returncode != 0
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
