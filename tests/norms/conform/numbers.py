"""Outputs, gradients and statistics: ours against torch's, and against finite differences."""

import warnings
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck

from tests.norms.conform.cases import Case
from tests.norms.conform.registry import check, has_reference, tracks
from tests.norms.conform.subjects import Subject

HALVES = (torch.bfloat16, torch.float16)


def run(layer: nn.Module, x: Tensor, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """The output, and all gradients for a random gradient of the output, rounded to `dtype`."""
    x = x.detach().clone().requires_grad_()
    y = layer(x)
    random = torch.Generator().manual_seed(0)
    dy = torch.randn(y.shape, generator=random, dtype=torch.float64).to(dtype).to(y.dtype)
    wanted = {"the input": x, **dict(layer.named_parameters())}
    gradients = torch.autograd.grad(y, list(wanted.values()), dy)
    found = {f"gradient of {name}": value for name, value in zip(wanted, gradients, strict=True)}
    return {"output": y.detach(), **found}


def described(case: Case, training: bool) -> str:
    return f"{case.name}, {'training' if training else 'eval'}"


def each(subject: Subject) -> Iterator[tuple[Case, bool, str]]:
    for case in subject.cases:
        for training in case.modes():
            yield case, training, described(case, training)


def assert_equal(ours: object, theirs: object, where: str, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(
        ours, theirs, rtol=tolerance, atol=tolerance, equal_nan=True, msg=lambda found: f"{where}: {found}"
    )


def assert_no_worse(ours: Tensor, theirs: Tensor | None, truth: Tensor, where: str, num_terms: int = 1) -> None:
    """The error against float64 is at most twice torch's, plus one unit in the last place of the largest value.

    In float32 the bound is twice as large, since torch's own error may be almost 0 by chance. Without a layer of
    torch's the bound is four units. There, the unit of a sum is at least that of the root of its number of terms, which
    are near 1: their roundings add up to that much, even where the terms themselves cancel.
    """
    if theirs is not None:
        assert ours.dtype == theirs.dtype, f"{where}: {ours.dtype} where torch has {theirs.dtype}"
        assert ours.shape == theirs.shape, f"{where}: {tuple(ours.shape)} where torch has {tuple(theirs.shape)}"
    if not truth.numel():
        return
    # A gradient that vanishes by cancellation has no scale of its own; the weights and gradients given are near 1.
    unit = torch.finfo(ours.dtype).eps * max(truth.abs().max().item(), 1e-2)
    off = (ours.double() - truth).abs().max().item()
    if theirs is None:
        unit = max(unit, torch.finfo(ours.dtype).eps * num_terms**0.5) if num_terms > 1 else unit
        assert off <= 4 * unit, f"{where}: off by {off:.3g}, one unit is {unit:.3g}"
        return
    theirs_off = (theirs.double() - truth).abs().max().item()
    allowed = (2 * theirs_off + unit) * (2 if ours.dtype == torch.float32 else 1)
    assert off <= allowed, f"{where}: off by {off:.3g}, torch by {theirs_off:.3g}, one unit is {unit:.3g}"


def assert_precise(subject: Subject, case: Case, training: bool, dtype: torch.dtype, parameters: torch.dtype) -> None:
    x = case.input.to(dtype)
    ours = case.build(subject.ours, parameters, training)
    exact = case.build(subject.reference(), torch.float64, training)
    exact.load_state_dict(ours.state_dict())  # the same rounded parameters
    truth, found = run(exact, x.double(), dtype), run(ours, x, dtype)
    torchs: dict[str, Tensor] = {}
    with warnings.catch_warnings():  # torch's RMSNorm says that it falls back from its fused form
        warnings.filterwarnings("ignore", "Mismatch dtype between input and weight")
        if subject.theirs is not None:
            torchs = run(case.build(subject.theirs, parameters, training), x, dtype)
    where = f"{described(case, training)}, {dtype} with parameters in {parameters}"
    for name, value in truth.items():
        num_terms = x.numel() // max(value.numel(), 1)  # 1 for the output and the gradient of the input
        assert_no_worse(found[name], torchs.get(name), value, f"{where}, {name}", num_terms)


@check(has_reference)
def outputs(subject: Subject) -> None:
    """Outputs equal torch's to 1e-10 in float64, in training and eval."""
    for case, training, where in each(subject):
        ours, theirs = (case.build(make, torch.float64, training) for make in (subject.ours, subject.reference()))
        assert_equal(ours(case.input), theirs(case.input), where)


@check(has_reference)
def gradients(subject: Subject) -> None:
    """Gradients of input and parameters equal torch's to 1e-10 in float64."""
    for case, training, where in each(subject):
        ours, theirs = (case.build(make, torch.float64, training) for make in (subject.ours, subject.reference()))
        assert_equal(run(ours, case.input), run(theirs, case.input), where)


def assert_precise_everywhere(subject: Subject, dtype: torch.dtype) -> None:
    for case, training, _ in each(subject):
        assert_precise(subject, case, training, dtype, dtype)


@check()
def precision_in_float32(subject: Subject) -> None:
    """In float32 the error against float64 is at most four times torch's plus two ulps."""
    assert_precise_everywhere(subject, torch.float32)


@check()
def precision_in_bfloat16(subject: Subject) -> None:
    """In bfloat16 the error against float64 is at most twice torch's plus one ulp."""
    assert_precise_everywhere(subject, torch.bfloat16)


@check()
def precision_in_float16(subject: Subject) -> None:
    """In float16 the error against float64 is at most twice torch's plus one ulp."""
    assert_precise_everywhere(subject, torch.float16)


@check(has_reference)
def mixed_precision(subject: Subject) -> None:
    """A half-precision input with float32 parameters is as accurate as torch's layer, with the same types."""
    for case, training, _ in each(subject):
        for dtype in HALVES:
            assert_precise(subject, case, training, dtype, torch.float32)


@check()
def output_dtype(subject: Subject) -> None:
    """The output has the input's type and shape, also where a half-precision input meets float32 parameters."""
    for case in subject.cases:
        for dtype in (torch.float32, *HALVES):
            y = case.build(subject.ours, torch.float32, case.modes()[0])(case.input.to(dtype))
            assert y.dtype == dtype, f"{case.name}: {y.dtype} for an input of {dtype}"
            assert y.shape == case.input.shape, f"{case.name}: {tuple(y.shape)} for {tuple(case.input.shape)}"


@check()
def gradcheck_first(subject: Subject) -> None:
    """First derivatives equal finite differences, also in forward mode."""
    _differentiate(subject, lambda f, inputs, fast: gradcheck(f, inputs, fast_mode=fast, check_forward_ad=True))


@check()
def gradcheck_second(subject: Subject) -> None:
    """Second derivatives equal finite differences."""
    _differentiate(subject, lambda f, inputs, fast: gradgradcheck(f, inputs, fast_mode=fast))


@check()
def forward_over_reverse(subject: Subject) -> None:
    """Second derivatives by forward mode over backward equal finite differences, in every third case."""
    _differentiate(
        subject, lambda f, inputs, fast: gradgradcheck(f, inputs, fast_mode=fast, check_fwd_over_rev=True), every=3
    )


def _differentiate(
    subject: Subject, tool: Callable[[Callable[..., Tensor], tuple[Tensor, ...], bool], bool], every: int = 1
) -> None:
    for case, training, where in list(each(subject))[::every]:
        layer = case.build(subject.ours, torch.float64, training)
        x = case.input.clone()
        names = list(dict(layer.named_parameters()))

        def output(
            x: Tensor, *values: Tensor, layer: nn.Module = layer, names: list[str] = names, like: Tensor = case.input
        ) -> Tensor:
            state = {**dict(layer.named_buffers()), **dict(zip(names, values, strict=True))}
            y: Tensor = torch.func.functional_call(layer, {k: v.clone() for k, v in state.items()}, (x,))
            return y

        inputs = (x.requires_grad_(), *(p.detach().clone().requires_grad_() for p in layer.parameters()))
        torch.manual_seed(0)
        assert tool(output, inputs, sum(i.numel() for i in inputs) > 100), where


@check(tracks)
def buffers(subject: Subject) -> None:
    """Running statistics equal torch's after steps of training and eval, and eval uses them."""
    for case in subject.cases:
        if case.training is not None:
            continue
        ours, theirs = (case.build(make, torch.float64) for make in (subject.ours, subject.reference()))
        for step, training in enumerate((True, True, False, True, False)):
            x = case.input * (step + 1) + step
            ours.train(training), theirs.train(training)
            where = f"{case.name}, step {step}"
            assert_equal(ours(x), theirs(x), where)
            assert_equal(ours.state_dict(), theirs.state_dict(), where)


@check()
def training_steps(subject: Subject) -> None:
    """After ten steps of SGD with momentum the weights equal those of torch's layer; all of them have moved."""
    case = subject.cases[0]
    layers = [case.build(make, torch.float64) for make in (subject.ours, subject.reference())]
    before = {name: p.detach().clone() for name, p in layers[0].named_parameters()}
    for layer in layers:
        if not before:
            continue
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.05, momentum=0.9)
        for step in range(10):
            y = layer(case.input * (1 + step / 10))
            loss = (y - torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert_equal(layers[0].state_dict(), layers[1].state_dict(), case.name, 1e-9)
    for name, parameter in layers[0].named_parameters():
        assert not torch.equal(parameter, before[name]), f"{name} has not moved"
