"""Cases for the Triton kernels, in Triton's interpreter and on a GPU, and the comparison of their results."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from src import norms
from src.norms.kernels.setting import use_kernels
from tests.norms.conform.numbers import assert_no_worse

DTYPES = (torch.float32, torch.bfloat16, torch.float16)

FORWARD = {"tile_forward"}
BACKWARD = {"tile_backward"}
LINES_FORWARD = {"line_moments", "merge_moments", "line_normalize"}
LINES_BACKWARD = {"line_sums", "merge_sums", "line_gradient"}
GIVEN = {
    "line_normalize",
    "line_sums",
    "merge_sums",
    "line_gradient",
}  # launched for running statistics


@dataclass(frozen=True)
class Case:
    """A layer, its input, and the kernels that have to be launched."""

    layer: Callable[[], nn.Module]
    shape: tuple[int, ...]
    kernels: set[str]
    channels_last: bool = False

    @property
    def name(self) -> str:
        order = " channels last" if self.channels_last else ""
        return f"{type(self.layer()).__name__} {self.shape}{order}"

    @property
    def is_long(self) -> bool:
        return "line_moments" in self.kernels or "value_sums" in self.kernels

    def input(self, offset: float) -> Tensor:
        torch.manual_seed(0)
        x = torch.randn(self.shape) + offset
        return x.contiguous(memory_format=torch.channels_last) if self.channels_last else x


TILES = FORWARD | BACKWARD
LINES = LINES_FORWARD | LINES_BACKWARD

CASES = (
    Case(lambda: norms.LayerNorm(300), (70, 300), TILES),
    Case(lambda: norms.LayerNorm(300, bias=False), (7, 300), TILES),
    Case(lambda: norms.LayerNorm(300, elementwise_affine=False), (7, 300), TILES),
    Case(lambda: norms.LayerNorm((5, 8, 9)), (6, 5, 8, 9), TILES),
    Case(lambda: norms.RMSNorm(300), (7, 10, 300), TILES),
    Case(lambda: norms.GroupNorm(4, 100), (50, 100), TILES),  # weights of four groups, value by value
    Case(lambda: norms.GroupNorm(4, 12), (5, 12, 9, 5), TILES),
    Case(lambda: norms.InstanceNorm2d(12), (5, 12, 9, 5), TILES),
    Case(lambda: norms.InstanceNorm2d(12, affine=True), (5, 12, 9, 5), TILES),
    Case(lambda: norms.BatchNorm2d(1), (6, 1, 9, 5), TILES),
    Case(lambda: norms.BatchNorm2d(40), (6, 40, 3, 5), TILES | GIVEN),
    Case(lambda: norms.BatchNorm2d(40), (6, 40, 3, 5), TILES | GIVEN, channels_last=True),
    Case(lambda: norms.BatchNorm1d(130), (70, 130), TILES | GIVEN),
    Case(lambda: norms.LayerNorm(10000), (2, 10000), FORWARD | LINES_BACKWARD | {"value_sums"}),
    Case(lambda: norms.LayerNorm(17000), (2, 17000), LINES | {"value_sums"}),
    Case(lambda: norms.RMSNorm(17000), (2, 17000), LINES | {"value_sums"}),
    Case(lambda: norms.GroupNorm(2, 4), (2, 4, 91, 91), LINES),
    Case(lambda: norms.InstanceNorm2d(2, affine=True), (2, 2, 130, 131), LINES),
    Case(lambda: norms.BatchNorm2d(3), (5, 3, 60, 61), LINES | GIVEN),
    Case(lambda: norms.BatchNorm2d(3), (3, 3, 60, 61), LINES | GIVEN, channels_last=True),
    Case(lambda: norms.BatchNorm2d(70), (5, 70, 13, 17), LINES | GIVEN, channels_last=True),
)


@contextmanager
def launches() -> Iterator[set[str]]:
    """Record the names of the kernels that are launched inside the block."""
    from src.norms.kernels import triton_lines, triton_tiles  # not at the top: Triton may be missing without a GPU

    started: set[str] = set()

    class Spy:
        def __init__(self, name: str, kernel: Any) -> None:
            self.name, self.kernel = name, kernel

        def __getitem__(self, grid: tuple[int, ...]) -> Any:
            started.add(self.name)
            return self.kernel[grid]

    with pytest.MonkeyPatch.context() as patch:
        for module in (triton_tiles, triton_lines):
            for name in TILES | LINES | GIVEN | {"value_sums"}:
                if hasattr(module, name):
                    patch.setattr(module, name, Spy(name, getattr(module, name)))
        yield started


def answers(layer: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Outputs, gradients and running statistics of a layer in training, then in eval."""
    found = {}
    x = x.detach().clone().requires_grad_()
    random = torch.Generator().manual_seed(1)
    for training in (True, False):
        y = layer.train(training)(x)
        dy = torch.randn(y.shape, generator=random).to(x).contiguous(memory_format=_order(y))
        wanted = {"input": x, **dict(layer.named_parameters())}
        gradients = torch.autograd.grad(y, list(wanted.values()), dy)
        mode = "training" if training else "eval"
        found[f"output in {mode}"] = y.detach()
        found |= {f"gradient of {name} in {mode}": g for name, g in zip(wanted, gradients, strict=True)}
    return {**found, **{name: buffer for name, buffer in layer.named_buffers() if buffer.is_floating_point()}}


def _order(x: Tensor) -> torch.memory_format:
    return torch.channels_last if x.ndim == 4 and not x.is_contiguous() else torch.contiguous_format


def layers(case: Case, dtype: torch.dtype, device: str) -> tuple[nn.Module, nn.Module]:
    """Our layer and torch's, with the same parameters."""
    ours = case.layer()
    with torch.no_grad():
        for number, parameter in enumerate(ours.parameters()):
            parameter.copy_(torch.linspace(0.5, 1.5, parameter.numel()).view(parameter.shape) - number)
    theirs = copy.deepcopy(ours)
    theirs.__class__ = getattr(nn, type(ours).__name__)
    return ours.to(device, dtype), theirs.to(device, dtype)


def is_right(case: Case, dtype: torch.dtype, device: str, offset: float) -> None:
    """Assert that the kernels agree with the formula, and are no further from float64 than torch's layer.

    The input has mean `offset` and standard deviation 1.
    """
    ours, theirs = layers(case, dtype, device)
    twin, exact = copy.deepcopy(ours), copy.deepcopy(theirs).double()
    x = case.input(offset).to(device, dtype)
    with launches() as started:
        found = answers(ours, x)
    assert started == case.kernels
    with use_kernels(False):
        formula = answers(twin, x)
    torchs, truth = answers(theirs, x), answers(exact, x.double())
    unit = torch.finfo(dtype).eps
    for name, value in found.items():
        where, expected = f"{case.name}, {dtype}, {name}", formula[name]
        assert value.stride() == expected.stride(), where
        assert_no_worse(value, torchs[name], truth[name], where)
        if not offset:
            size = max(expected.abs().max().item(), 1)
            torch.testing.assert_close(value, expected, rtol=0, atol=8 * unit * size, msg=where)
            if dtype != torch.float32 and name == "output in training":
                same = (value == expected).float().mean().item()
                assert same > 0.9, f"{where}: {same:.0%} are rounded to the same"
