"""Inputs and options that torch's layers refuse, and empty inputs, which they take."""

import re
import warnings
from typing import Any

import torch

from tests.norms.conform.cases import Case
from tests.norms.conform.databases import CONSTRUCTION_ERROR, module_info
from tests.norms.conform.numbers import assert_equal, run
from tests.norms.conform.registry import check, has_reference, is_batch_norm, is_drop_in_batch_norm
from tests.norms.conform.subjects import Subject, pair, plain


def error_of(call: Any) -> tuple[type[Exception], str] | None:
    try:
        call()
    except Exception as error:
        return type(error), str(error)
    return None


@check(lambda subject: subject.is_drop_in and subject.name not in ("LayerNorm", "RMSNorm"))
def one_value_in_each_mean(subject: Subject) -> None:
    """One value in each mean raises the same error as in torch's layer, in training and eval."""
    arguments = (6, 6) if subject.name == "GroupNorm" else (6,)
    ranks = {"1d": 3, "2d": 4, "3d": 5}.get(subject.name[-2:], 4)
    x = torch.ones(1, 6, *[1] * (ranks - 2), dtype=torch.float64)
    ours, theirs = pair(subject, Case("one value", arguments, {}, x))
    assert error_of(lambda: theirs(x)) is not None
    for training in (True, False):
        found, expected = (error_of(lambda layer=layer: layer.train(training)(x)) for layer in (ours, theirs))  # noqa: B023
        assert found == expected, f"training={training}: {found} where torch has {expected}"


@check(lambda subject: subject.is_drop_in and subject.name in ("BatchNorm2d", "GroupNorm"))
def without_channels(subject: Subject) -> None:
    """A batch norm takes an input without channels, as torch's does; a group norm refuses it in torch's words."""
    arguments = (1, 0) if subject.name == "GroupNorm" else (0,)
    layer, x = subject.ours(*arguments), torch.ones(4, 0, 3, 3)
    refused = RuntimeError, "Expected number of channels to be greater than 0, got 0"  # torch 2.11 takes it
    found = error_of(lambda: layer(x))
    assert found == (refused if subject.name == "GroupNorm" else None), found


@check(lambda subject: has_reference(subject) and (subject.is_drop_in or "InstanceNorm" not in subject.name))
def empty_batch(subject: Subject) -> None:
    """A batch of no samples keeps its shape and the statistics, and gives zero parameter gradients."""
    case = plain(subject)
    for training in (True, False):
        layer = case.build(subject.ours, torch.float64, training)
        before = {key: value.clone() for key, value in layer.state_dict().items()}
        found = run(layer, case.input[:0])
        assert found["output"].shape == case.input[:0].shape
        for name, value in found.items():
            assert torch.equal(value, torch.zeros_like(value)), f"{name}: {value}"
        after = layer.state_dict()
        if "num_batches_tracked" in after and is_batch_norm(subject):
            assert after.pop("num_batches_tracked") == before.pop("num_batches_tracked") + training
        assert_equal(after, before, "state", 0)


@check(has_reference)
def errors(subject: Subject) -> None:
    """A wrong number of channels, rank or type raises an error where torch's does; drop-ins raise the same error."""
    case = plain(subject)
    x = case.input.float()
    wrong = {
        "one channel less": x.narrow(subject.channel_dim, 0, x.shape[subject.channel_dim] - 1),
        "one channel": x.narrow(subject.channel_dim, 0, 1),
        "float64 input": x.double(),
    }
    if subject.is_drop_in:
        wrong |= {"one dimension": x.flatten(), "six dimensions": x.reshape(*x.shape, *[1] * (6 - x.ndim))}
        wrong |= {"no batch": x[0]}
    for training in (True, False):
        for name, value in wrong.items():
            ours, theirs = (layer.train(training) for layer in pair(subject, case, torch.float32))
            with warnings.catch_warnings():  # torch's RMSNorm says that it falls back from its fused form
                warnings.filterwarnings("ignore", "Mismatch dtype between input and weight")
                found, expected = error_of(lambda: ours(value)), error_of(lambda: theirs(value))  # noqa: B023
            if subject.is_drop_in:
                assert found == expected, f"{name}: {found} where torch has {expected}"
            else:  # the families' layers have messages of their own
                assert (found is None) == (expected is None), f"{name}: {found} where torch has {expected}"


@check(lambda subject: subject.is_drop_in and module_info(subject.name).module_error_inputs_func is not None)
def errors_of_the_database(subject: Subject) -> None:
    """The error cases of PyTorch's module database raise the same type and message."""
    info = module_info(subject.name)
    for found in info.module_error_inputs_func(info, "cpu", torch.float32, requires_grad=False, training=True):
        made, given = found.module_error_input.constructor_input, found.module_error_input.forward_input

        def call(
            made: Any = made, given: Any = given, at_construction: bool = found.error_on == CONSTRUCTION_ERROR
        ) -> None:
            layer = subject.ours(*made.args, **made.kwargs)
            if not at_construction:
                layer(*given.args)

        raised = error_of(call)
        assert raised is not None, f"{made.args}, {made.kwargs} raises nothing"
        assert issubclass(raised[0], found.error_type), raised
        assert re.search(found.error_regex, raised[1]), raised


@check(is_drop_in_batch_norm)
def eps_not_positive(subject: Subject) -> None:
    """eps <= 0 raises torch's error in training; 0 is allowed in eval."""
    errors = {}
    for eps in (0.0, -1e-5):
        for training in (True, False):
            case = plain(subject, eps=eps)
            ours, theirs = (layer.train(training) for layer in pair(subject, case))
            errors[eps, training] = error_of(lambda: ours(case.input)), error_of(lambda: theirs(case.input))  # noqa: B023
    if errors[0.0, False][1] is not None:  # torch 2.11 has one rule for both, in other words; ours is its successors'
        assert errors.pop((0.0, False))[0] is None
        errors = {key: tuple(error and error[0] for error in both) for key, both in errors.items()}
    for found, expected in errors.values():
        assert found == expected, f"{found} where torch has {expected}"
