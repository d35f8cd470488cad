"""Each problem with a norm causes one warning; a healthy run causes none."""

from types import SimpleNamespace
from typing import Any

import pytest

from src.callbacks import FiniteLoss, NormStatistics
from src.callbacks.norm_probe import ProbedNorm
from src.callbacks.norm_warnings import NormWarnings
from src.norms import BatchNorm1d
from tests.helpers.small_net import Net, batches, fit, warnings_in


def test_a_healthy_run_is_not_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    fit(Net(), batches(60), NormStatistics(every_n_steps=1), FiniteLoss())
    assert warnings_in(caplog) == []


def test_few_values_are_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    fit(Net(), batches(size=2), NormStatistics(every_n_steps=1))
    (message,) = [m for m in warnings_in(caplog) if "share" in m]
    assert message.startswith("step 0, layer '1': 2 values of its input (2, 4) share a mean.")


def test_an_exploding_running_variance_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    fit(Net(), [*batches(3), *batches(3, scale=1e4)], NormStatistics(every_n_steps=1, eval_gap_limit=1e9))
    (message,) = warnings_in(caplog)
    assert message.startswith("step 3, layer '1': its running variance explodes; the largest channel's is ")


def test_an_eval_gap_is_warned_of_once_the_running_statistics_have_settled(caplog: pytest.LogCaptureFixture) -> None:
    """With a momentum of 0.5, the initial value has lost its influence after 7 batches; an earlier gap is ignored."""
    data = [(x + 50 * (-1) ** step, labels) for step, (x, labels) in enumerate(batches(20))]
    fit(Net(BatchNorm1d(4, momentum=0.5), lr=0.0), data, NormStatistics(every_n_steps=1))
    (message,) = warnings_in(caplog)
    assert message.startswith("step 6, layer '1': its outputs in eval, by running statistics, are ")
    caplog.clear()
    fit(Net(BatchNorm1d(4, momentum=0.5), lr=0.0), data, NormStatistics(every_n_steps=1, eval_gap_limit=1e3))
    assert warnings_in(caplog) == []


def test_an_eval_gap_that_is_not_a_number_is_not_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    probe: Any = SimpleNamespace(order=[ProbedNorm("1", BatchNorm1d(4), "BatchNorm", 1)], num_values={}, shapes={})
    warnings = NormWarnings(eval_gap_limit=1.0)
    for gap, messages in ((float("nan"), 0), (float("inf"), 1)):
        warnings.look(0, probe, {("eval_gap", "1"): gap, ("num_batches", "1"): 1000.0})
        assert len(warnings_in(caplog)) == messages
