"""Numbers that are hard to compute: large offsets, half precision, constants, values that are not finite."""

import torch
from torch import Tensor

from tests.norms.conform.cases import Case
from tests.norms.conform.numbers import assert_equal, assert_precise, run
from tests.norms.conform.registry import check, has_reference, is_batch_norm
from tests.norms.conform.subjects import Subject, pair, plain


@check(has_reference)
def half_statistics_in_float32(subject: Subject) -> None:
    """Half-precision inputs are summed in float32: sums of 10,000 values neither overflow nor stop growing."""
    case = plain(subject)
    scale = 1000.0  # squares are beyond float16
    for dtype in (torch.float16, torch.bfloat16):
        dims_of_size = {"LayerNorm": -1, "RMSNorm": -1}
        if subject.name in dims_of_size:
            x = torch.rand(2, 10_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
            long = Case("10,000 features", (10_000,), {}, x * scale)
        elif subject.is_drop_in:
            size = case.input.shape
            shape = (*size[:-1], 10_000 // size[-2]) if case.input.ndim > 3 else (*size[:-1], 10_000)
            x = torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
            long = Case("10,000 positions", case.args, case.kwargs, x * scale)
        else:
            long = Case(case.name, case.args, case.kwargs, case.input.abs() * scale)
        assert_precise(subject, long, True, dtype, dtype)


@check(lambda subject: has_reference(subject) and "RMSNorm" not in subject.name)
def offset_data(subject: Subject) -> None:
    """Mean 1e4 and spread 1 in float32: the error is at most torch's, or 1e-5 of the largest value."""
    case = plain(subject)
    offset = (case.input + 1e4).float()
    exact = case.build(subject.reference(), torch.float64)
    truth = run(exact, offset.double(), torch.float32)
    ours, theirs = (
        run(case.build(module, torch.float32), offset, torch.float32) for module in (subject.ours, subject.reference())
    )
    for name, value in truth.items():
        off, off_by_torch = ((found[name].double() - value).abs().max().item() for found in (ours, theirs))
        size = value.abs().max().item()
        assert off <= max(off_by_torch, 1e-5 * size), f"{name}: off by {off:.2g}, torch's by {off_by_torch:.2g}"


@check(is_batch_norm)
def offset_statistics(subject: Subject) -> None:
    """The running variance of data with mean 1e4 and spread 1 stays right in float32."""
    case = plain(subject)
    offset = (case.input + 1e4).float()
    exact, single = case.build(subject.ours, torch.float64), case.build(subject.ours, torch.float32)
    exact(offset.double()), single(offset)
    assert isinstance(single.running_var, Tensor)
    torch.testing.assert_close(single.running_var.double(), exact.running_var, rtol=1e-3, atol=0.0)


@check()
def autocast(subject: Subject) -> None:
    """Under autocast on CPU, outputs and gradients have torch's types; without a layer of torch's, the input's."""
    case = plain(subject)
    for autocast_dtype in (torch.bfloat16, torch.float16):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            found = [(dtype, dtype)] if subject.theirs is None else []
            for make in (subject.ours, subject.theirs):
                if make is not None:
                    x = case.input.to(dtype).requires_grad_()
                    with torch.autocast("cpu", dtype=autocast_dtype):
                        y = case.build(make, torch.float32)(x)
                    (dx,) = torch.autograd.grad(y.float().square().sum(), x)
                    found.append((y.dtype, dx.dtype))
            assert found[0] == found[1], f"{dtype} under {autocast_dtype}: {found}"


@check(lambda subject: subject.name == "RMSNorm")
def machine_epsilon(subject: Subject) -> None:
    """`eps=None` is the machine epsilon of the type in which it computes: float32's for the half types."""
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        x = torch.full((1, 10), 3e-4, dtype=dtype)
        ours, theirs = (make(10, eps=None, dtype=dtype)(x) for make in (subject.ours, subject.reference()))
        torch.testing.assert_close(ours, theirs)


@check(has_reference)
def constant_input(subject: Subject) -> None:
    """Where all values are the same, eps keeps output and gradients finite, and equal to torch's."""
    case = plain(subject)
    constant = torch.full_like(case.input, 3.0)
    ours, theirs = (run(layer, constant) for layer in pair(subject, case))
    assert_equal(ours, theirs, "constant input", 1e-7)
    assert all(torch.isfinite(value).all() for value in ours.values())


@check(has_reference)
def not_finite(subject: Subject) -> None:
    """A NaN or infinity reaches exactly the values that it reaches in torch's layer."""
    case = plain(subject)
    for bad in (float("nan"), float("inf")):
        x = case.input.clone()
        x.view(-1)[7] = bad
        ours, theirs = (layer(x) for layer in pair(subject, case))
        assert torch.equal(ours.isfinite(), theirs.isfinite()), bad
