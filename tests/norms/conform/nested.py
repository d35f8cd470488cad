"""Nested tensors: samples of different lengths give the numbers of their positions, taken one after another."""

import warnings

import torch
from torch import Tensor, nn
from torch.nn.modules.instancenorm import _InstanceNorm

from tests.norms.conform.numbers import assert_equal
from tests.norms.conform.registry import check
from tests.norms.conform.subjects import Subject, plain


def takes_them(subject: Subject) -> bool:
    """Whether the layer works on the last dimensions and does not tell the positions of one sample from another's."""
    layer = plain(subject).build(subject.ours, torch.float64)
    return subject.channel_dim == -1 and not isinstance(layer, _InstanceNorm)


def answer(layer: nn.Module, samples: list[Tensor], layout: torch.layout | None) -> dict[str, Tensor]:
    """The output with the input added, the gradients and the buffers; without a layout for all positions in one row."""
    samples = [sample.clone().requires_grad_() for sample in samples]
    if layout is None:
        x = torch.cat(samples)
        y = layer(x) + x
    else:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The PyTorch API of nested tensors is in prototype stage")
            x = torch.nested.as_nested_tensor(samples, layout=layout)
        added = layer(x) + x
        assert added.layout == layout
        y = torch.cat(added.unbind())
    (y * torch.linspace(-1, 2, y.numel(), dtype=y.dtype).reshape(y.shape).sin()).sum().backward()
    gradients = {name: p.grad for name, p in layer.named_parameters() if p.grad is not None}
    dx = torch.cat([sample.grad for sample in samples if sample.grad is not None])
    return {"output": y.detach(), "input": dx, **gradients, **dict(layer.named_buffers())}


@check(takes_them)
def takes_nested_tensors(subject: Subject) -> None:
    """A nested tensor, jagged or strided, gives the outputs, gradients and statistics of all its positions."""
    case = plain(subject)
    samples = [x[:length].contiguous() for x, length in zip(case.input, (3, 5, 2), strict=False)]
    for training in case.modes():
        expected = answer(case.build(subject.reference(), torch.float64, training), samples, None)
        for layout in (torch.jagged, torch.strided):
            found = answer(case.build(subject.ours, torch.float64, training), samples, layout)
            assert_equal(found, expected, f"{layout}, training={training}")
