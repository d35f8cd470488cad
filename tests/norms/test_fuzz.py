"""A short part of the fuzzer with a fixed seed; `make fuzz` runs it for longer with another seed each time."""

import os
import subprocess
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from src.norms.kernels import arrangement
from tests.helpers.train_command import REPOSITORY
from tests.norms.fuzz.axes import AxesTrial, axes_trials
from tests.norms.fuzz.compare import check
from tests.norms.fuzz.found import FOUND
from tests.norms.fuzz.trial import Trial, trials


def some(number: int) -> Callable[[Any], Any]:
    """The same `number` examples each time, in any time they need, without a database."""
    return settings(
        max_examples=number, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )


@some(150)
@given(trials())
def test_layers_by_kernels(trial: Trial) -> None:
    check(trial, "kernels")


@some(100)
@given(trials())
def test_layers_by_the_formula(trial: Trial) -> None:
    check(trial, "formula")


@some(3)
@given(trials())
def test_layers_compiled(trial: Trial) -> None:
    check(trial, "compiled")


def test_layers_by_the_command() -> None:
    """The command tries layers by Triton's kernels in the interpreter, and says how many."""
    pytest.importorskip("triton")
    command = [sys.executable, "-m", "tests.norms.fuzz", "--backend=triton", "--minutes=0.0001", "--seed=0"]
    environment = {**os.environ, "LIGHTNING_NORMS_KERNELS": "triton", "TRITON_INTERPRET": "1"}
    found = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
    assert found.stdout.splitlines()[-1] == "triton: 5 layers tried, 0 failures (first seed 0)"


@pytest.mark.parametrize("trial", FOUND, ids=lambda trial: f"{FOUND.index(trial)}")
def test_what_was_found(trial: Trial | AxesTrial) -> None:
    check(trial)


def traced(function: Callable[..., Any], lines: set[int]) -> Callable[..., Any]:
    """`function`, which adds to `lines` the lines that run in it."""

    def in_function(frame: FrameType, event: str, _: object) -> Any:
        lines.update({frame.f_lineno} if event == "line" else ())
        return in_function

    def call(*arguments: Any) -> Any:
        before = sys.gettrace()
        sys.settrace(lambda frame, *_: in_function if frame.f_code is function.__code__ else None)
        try:
            return function(*arguments)
        finally:
            sys.settrace(before)

    return call


@some(400)
@given(axes_trials())
def any_axes(trial: AxesTrial) -> None:
    check(trial)


def test_any_axes_reach_each_branch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel and the formula agree for any axes. These reach each line of `arrange`, so each reason for no kernel."""
    code, lines = arrangement.arrange.__code__, set[int]()
    monkeypatch.setattr(arrangement, "arrange", traced(arrangement.arrange, lines))
    arrangement._arrange_axes.cache_clear()
    any_axes()
    whole = {line for _, _, line in code.co_lines() if line is not None and line > code.co_firstlineno}
    assert lines >= whole, f"not reached: lines {sorted(whole - lines)} of arrangement.py"
