"""Memory formats: an input in any format gives the right numbers, in the memory format that torch gives."""

from importlib import import_module

import torch
from torch import Tensor, nn

from tests.norms.conform.cases import Case
from tests.norms.conform.numbers import assert_equal, described, each
from tests.norms.conform.registry import check, has_reference, is_drop_in
from tests.norms.conform.subjects import Subject

CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def arrangements(x: Tensor) -> dict[str, Tensor]:
    """The same values, laid out differently in memory."""
    found = {
        "contiguous": x.contiguous(),
        "transposed": x.transpose(-1, -2).contiguous().transpose(-1, -2),
        "batch inside": x.transpose(0, 1).contiguous().transpose(0, 1),
        "every other value": torch.stack([x, x], -1).flatten(-2)[..., ::2],
        "offset": torch.cat([x.new_zeros(3), x.flatten()])[3:].view(x.shape),
    }
    if x.ndim in CHANNELS_LAST:
        found["channels last"] = x.contiguous(memory_format=CHANNELS_LAST[x.ndim])
    return found


def order(x: Tensor) -> tuple[int, ...]:
    """The strides, without those of the dimensions of size 1, which mean nothing."""
    return tuple(stride for stride, size in zip(x.stride(), x.shape, strict=True) if size > 1)


def answer(layer: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """The output, and the gradients of the input for gradients of the output that lie in memory in different ways."""
    x = x.detach().requires_grad_()
    y = layer(x)
    dy = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).sin().reshape(y.shape)
    given = {
        "gradient": torch.empty_like(y).copy_(dy),
        "gradient of a contiguous one": dy,
        "gradient of a transposed one": dy.transpose(1, -1).contiguous().transpose(1, -1),
    }
    found = {name: torch.autograd.grad(y, x, value, retain_graph=True)[0] for name, value in given.items()}
    return {"output": y.detach(), **found}


def keeps_channels_last(subject: Subject) -> bool:
    """Whether a channels-last input means anything to it; torch's instance norms answer it with a contiguous output."""
    of_maps = subject.channel_dim == 1 and any(case.input.ndim in CHANNELS_LAST for case in subject.cases)
    return of_maps and not subject.name.startswith("InstanceNorm")


@check()
def non_contiguous(subject: Subject) -> None:
    """An input that is transposed, sliced or channels last gives the same numbers as a contiguous input."""
    for case, training, where in each(subject):
        if case.input.ndim < 2 or not case.input.numel():
            continue
        layers = {name: case.build(subject.ours, torch.float64, training) for name in arrangements(case.input)}
        found = {name: answer(layers[name], x) for name, x in arrangements(case.input).items()}
        for name, values in found.items():
            assert_equal(values, found["contiguous"], f"{where}, {name}")


@check(has_reference)
def layouts_of_kernels(subject: Subject) -> None:
    """In float32, which kernels compute, an input in any memory format gives the numbers of torch's layer."""
    cases = [case for case in subject.cases if case.input.ndim > 1 and case.input.numel()]
    if subject.name in ("LayerNorm", "RMSNorm"):
        x = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        cases += [Case(f"{shape} of a map", (shape,), {}, x) for shape in ((3, 4, 5), (4, 5), (5,))]
    use_kernels = import_module(f"{subject.norms.__name__}.kernels.setting").use_kernels
    for case in cases:
        for training in case.modes():
            expected = answer(case.build(subject.reference(), torch.float64, training), case.input.float().double())
            for name, x in arrangements(case.input.float()).items():
                with use_kernels(True):
                    found = answer(case.build(subject.ours, torch.float32, training), x)
                for part, value in found.items():
                    where = f"{described(case, training)}, {name}, {part}"
                    assert_equal(value.double(), expected[part], where, 1e-3)


@check(is_drop_in)
def memory_order(subject: Subject) -> None:
    """Output and input gradient lie in memory as torch's do, so that a `view` after the norm works as before."""
    for case, training, where in each(subject):
        if case.input.ndim < 2 or not case.input.numel():
            continue
        for name, x in arrangements(case.input).items():
            ours, theirs = (case.build(make, torch.float64, training) for make in (subject.ours, subject.reference()))
            torchs = answer(theirs, x)
            for part, found in answer(ours, x).items():
                if subject.name == "RMSNorm" and " of a " in part:
                    continue  # torch's backward is pointwise there and takes the order of what it is given
                expected = torchs[part]
                assert order(found) == order(expected), (
                    f"{where}, {name}, {part}: strides {found.stride()} where torch has {expected.stride()}"
                )


@check(keeps_channels_last)
def channels_last(subject: Subject) -> None:
    """A channels-last input (4 or 5 dimensions) gives a channels-last output and input gradient."""
    for case, training, where in each(subject):
        memory_format = CHANNELS_LAST.get(case.input.ndim)
        if memory_format is None or not case.input.numel():
            continue
        x = case.input.contiguous(memory_format=memory_format)
        found = answer(case.build(subject.ours, x.dtype, training), x)
        for part, tensor in (("output", found["output"]), ("gradient", found["gradient"])):
            assert tensor.is_contiguous(memory_format=memory_format), f"{where}, {part}: strides {tensor.stride()}"
