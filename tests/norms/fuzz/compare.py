"""Run a trial with our layer and torch's, and compare: errors, types, layouts, and errors against exact values."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import src.norms
from src.norms.formula.statistics import computing_dtype
from tests.norms.conform.layout import order
from tests.norms.fuzz.axes import AxesTrial
from tests.norms.fuzz.exact import Found, exact
from tests.norms.fuzz.trial import Trial

# Ours may be off by this many units of the scale, and by one for the root of the number of values that are summed:
# kernels sum blocks of values in float32. Torch's layer is off by up to a million far from zero.
UNITS = 6
Values = dict[str, Tensor]


@contextmanager
def backend(name: str, norms: ModuleType = src.norms) -> Iterator[Callable[[nn.Module], Callable[[Tensor], Tensor]]]:
    """How a layer of ours is called: a function of the layer.

    kernels and formula: on CPU. triton: in a process whose environment has set it. compiled: by torch.compile.
    """
    use_kernels = import_module(f"{norms.__name__}.kernels.setting").use_kernels
    if name == "compiled":
        torch._dynamo.reset()
        yield lambda layer: torch.compile(layer, backend="aot_eager", dynamic=False)
    elif name == "triton":
        yield lambda layer: layer
    else:
        with use_kernels(name == "kernels"):
            yield lambda layer: layer


def state_of(layer: nn.Module) -> Values:
    return {name: tensor.detach().clone() for name, tensor in layer.named_buffers()}


def answers(
    trial: Trial, layer: nn.Module, call: Callable[[Tensor], Tensor]
) -> tuple[list[tuple[Values, Values, Values]], type[Exception] | None]:
    """For each call: the layer's buffers before, what it gives, and its buffers after; and the error that ends them."""
    found: list[tuple[Values, Values, Values]] = []
    for step, training in enumerate(trial.modes):
        before = state_of(layer.train(training))
        try:
            x = trial.layout.place(trial.input(step)).detach().requires_grad_("input" in trial.differentiated)
            y = call(x)
            given = {"output": y.detach()}
            if y.requires_grad:
                wanted = {"gradient of the input": x} if x.requires_grad else {}
                wanted |= {f"gradient of {name}": p for name, p in layer.named_parameters() if p.requires_grad}
                dy = trial.output_gradient(y.detach(), step)
                given |= zip(wanted, torch.autograd.grad(y, list(wanted.values()), dy), strict=True)
        except Exception as error:
            return found, type(error)
        found.append((before, given, state_of(layer)))
    return found, None


def as_exact(tensor: Tensor | None) -> Any:
    return None if tensor is None else tensor.detach().double().numpy().astype(np.longdouble)


def exactly(trial: Trial, step: int, layer: nn.Module, before: Values, output: Tensor) -> Found:
    """The exact values for the input and the state of a call."""
    training, norm = trial.modes[step], trial.exactly(layer)
    x = trial.layout.place(trial.input(step))
    mean, var = (as_exact(before.get(f"running_{name}")) for name in ("mean", "var"))
    given = None if training or mean is None else (mean, var)
    eps = layer.eps if layer.eps is not None else torch.finfo(computing_dtype(x.dtype)).eps
    unit = torch.finfo(computing_dtype(x.dtype)).eps
    dy = as_exact(trial.output_gradient(output, step))
    weight, bias = as_exact(layer.weight), as_exact(getattr(layer, "bias", None))
    corrected = x.dtype == computing_dtype(x.dtype)
    found = exact(norm, as_exact(x), dy, weight, bias, given, eps, unit, corrected)
    if mean is not None and training and "mean" in found:
        factor = layer.momentum
        if factor is None:
            factor = 1 / (before["num_batches_tracked"].item() + 1) if norm.kind == "BatchNorm" else 0.0
        for name, value in (("mean", mean), ("var", var)):
            batch, scale = found[name]
            found[f"running_{name}"] = value + factor * (batch - value), np.abs(value) + factor * scale
    return found


def off(found: Tensor, value: Any, scale: Any, dtype: torch.dtype) -> float:
    """The largest error in units: of the scale in the computing type, and of the value in the type of the result."""
    unit = torch.finfo(computing_dtype(dtype)).eps * scale
    info = torch.finfo(found.dtype)
    unit = unit + info.eps * (np.abs(value) + info.smallest_normal)
    with np.errstate(invalid="ignore", over="ignore"):
        expected = as_exact(torch.from_numpy(value.astype(np.float64)).to(found.dtype))
        error = np.abs(as_exact(found) - value)
        error[np.isinf(expected) & (as_exact(found) == expected)] = 0
    if not error.size:
        return 0.0
    return float(np.where(np.isnan(error), np.inf, error / unit).max())


def check(trial: Trial | AxesTrial, name: str = "kernels", norms: ModuleType = src.norms) -> None:
    """Raise AssertionError if our layer differs from torch's in kind, or if its error is above `UNITS`."""
    if isinstance(trial, AxesTrial):
        with backend(name, norms):
            trial.check(norms)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = trial.build(False)
        torchs, expected_error = answers(trial, theirs, theirs)
        ours = trial.build(True, norms)
        with backend(name, norms) as called:
            found, error = answers(trial, ours, called(ours))
    if error is not expected_error:
        if 0 in (trial.options.get("num_features"), trial.options.get("num_channels")):
            return  # whether torch takes an input without channels depends on its version and on the memory format
        if expected_error is None and trial.family == "BatchNorm" and 0 in trial.shape:
            return  # torch's batch norm takes any empty input; ours refuses a wrong number of channels or a wrong type
        if expected_error is IndexError and trial.family == "InstanceNorm" and 0 in trial.shape:
            return  # torch looks for a first sample where there is none; ours takes such an input
    assert error is expected_error, f"{error} where torch raises {expected_error}"
    # The gradient of torch's RMS norm lies in memory as that of the output does.
    laid_out = ["output", "gradient of the input"][: 1 if trial.norm == "RMSNorm" and trial.gradient else 2]
    if trial.layout.order and 1 in trial.shape:
        laid_out = []  # strides of dimensions of size 1 mean nothing, but torch reads them
    for step, ((before, values, after), (their_before, their_values, their_after)) in enumerate(
        zip(found, torchs, strict=True)
    ):
        truth = exactly(trial, step, ours, before, values["output"])
        their_truth = exactly(trial, step, theirs, their_before, their_values["output"])
        assert values.keys() == their_values.keys()
        for part in (*values, *after):
            one, other = values.get(part, after.get(part)), their_values.get(part, their_after.get(part))
            where = f"call {step}, {part}"
            assert one.dtype == other.dtype, f"{where}: {one.dtype} where torch has {other.dtype}"
            assert one.shape == other.shape, f"{where}: {tuple(one.shape)} where torch has {tuple(other.shape)}"
            if one.numel() and trial.is_drop_in and part in laid_out:
                assert order(one) == order(other), f"{where}: strides {one.stride()} where torch has {other.stride()}"
            if part not in truth:
                assert torch.equal(one, before[part]) or torch.equal(one, other), f"{where}: {one}, torch's {other}"
                continue
            dtype = getattr(torch, trial.dtype)
            error_of_ours, error_of_torchs = off(one, *truth[part], dtype), off(other, *their_truth[part], dtype)
            allowed = UNITS + torch.Size(trial.shape).numel() ** 0.5
            assert error_of_ours <= allowed, (
                f"{where}: off by {error_of_ours:.3g} units, torch by {error_of_torchs:.3g}, {allowed:.3g} are allowed"
            )
