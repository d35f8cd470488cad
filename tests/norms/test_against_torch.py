"""Our drop-in classes against torch's, side by side."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from src import norms

CASES: list[tuple[str, dict[str, Any], tuple[int, ...]]] = [
    ("BatchNorm1d", {"num_features": 6}, (5, 6)),
    ("BatchNorm1d", {"num_features": 6, "affine": False}, (5, 6, 7)),
    ("BatchNorm2d", {"num_features": 6, "eps": 1e-3, "momentum": 0.3}, (4, 6, 5, 3)),
    ("BatchNorm2d", {"num_features": 6, "momentum": None}, (4, 6, 5, 3)),
    ("BatchNorm2d", {"num_features": 6, "track_running_stats": False}, (4, 6, 5, 3)),
    ("BatchNorm3d", {"num_features": 6}, (2, 6, 3, 4, 2)),
    ("LayerNorm", {"normalized_shape": 6}, (4, 3, 6)),
    ("LayerNorm", {"normalized_shape": (3, 6), "eps": 1e-3}, (4, 3, 6)),
    ("LayerNorm", {"normalized_shape": 6, "bias": False}, (4, 6)),
    ("LayerNorm", {"normalized_shape": 6, "elementwise_affine": False}, (4, 3, 6)),
    ("RMSNorm", {"normalized_shape": 6}, (4, 3, 6)),
    ("RMSNorm", {"normalized_shape": (3, 6), "eps": 1e-3}, (4, 3, 6)),
    ("GroupNorm", {"num_groups": 3, "num_channels": 6}, (4, 6, 5, 3)),
    ("GroupNorm", {"num_groups": 1, "num_channels": 6, "affine": False}, (4, 6, 5)),
    ("InstanceNorm1d", {"num_features": 6}, (4, 6, 9)),
    ("InstanceNorm2d", {"num_features": 6, "affine": True}, (4, 6, 5, 3)),
    ("InstanceNorm2d", {"num_features": 6, "affine": True}, (6, 5, 3)),
    ("InstanceNorm2d", {"num_features": 6, "track_running_stats": True}, (4, 6, 5, 3)),
    ("InstanceNorm3d", {"num_features": 6}, (2, 6, 3, 4, 2)),
]
IDS = [f"{name}-{'-'.join(f'{k}={v}' for k, v in options.items())}" for name, options, _ in CASES]


def make_pair(name: str, options: dict[str, Any], dtype: torch.dtype = torch.float64) -> tuple[nn.Module, nn.Module]:
    """Ours and theirs with the same random parameters, of which ours have come through the state dict."""
    ours = getattr(norms, name)(**options, dtype=dtype)
    theirs = getattr(nn, name)(**options, dtype=dtype)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


def run(layer: nn.Module, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The output and all gradients of a fixed random loss."""
    x = x.clone().requires_grad_()
    y = layer(x)
    weight = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).reshape(y.shape).sin()
    wanted = [x, *layer.parameters()]
    return y.detach(), list(torch.autograd.grad((y * weight).sum(), wanted))


@pytest.mark.parametrize(("name", "options", "shape"), CASES, ids=IDS)
def test_outputs_gradients_and_buffers(name: str, options: dict[str, Any], shape: tuple[int, ...]) -> None:
    ours, theirs = make_pair(name, options)
    torch.manual_seed(0)
    for _ in range(3):
        x = torch.randn(shape, dtype=torch.float64) * 3 + 2
        torch.testing.assert_close(run(ours, x), run(theirs, x))
    ours.eval(), theirs.eval()
    torch.testing.assert_close(run(ours, x), run(theirs, x))
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
    assert repr(ours) == repr(theirs)
    assert isinstance(ours, getattr(nn, name))
    assert ours.state_dict()._metadata == theirs.state_dict()._metadata


@pytest.mark.parametrize(("name", "options", "shape"), CASES, ids=IDS)
def test_large_mean_stays_accurate(name: str, options: dict[str, Any], shape: tuple[int, ...]) -> None:
    """E[x^2] - E[x]^2 would be off by more than its value."""
    exact, _ = make_pair(name, options)
    single = copy.deepcopy(exact).float()
    torch.manual_seed(0)
    x = (torch.randn(shape, dtype=torch.float64) + 1e4).float()
    torch.testing.assert_close(single(x).double(), exact(x.double()), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("name", "options", "shape"), CASES, ids=IDS)
def test_half_precision_is_no_worse_than_torch(
    name: str, options: dict[str, Any], shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    exact, _ = make_pair(name, options)
    ours, theirs = make_pair(name, options, dtype)
    ours.load_state_dict(exact.state_dict())
    theirs.load_state_dict(exact.state_dict())
    exact.load_state_dict(ours.state_dict())  # the same rounded parameters
    torch.manual_seed(0)
    x = torch.randn(shape).to(dtype)
    truth = exact(x.double())
    y = ours(x)
    assert y.dtype == dtype
    ours_off = (y.double() - truth).abs().max().item()
    theirs_off = (theirs(x).double() - truth).abs().max().item()
    one_ulp = torch.finfo(dtype).eps * truth.abs().max().item()
    assert ours_off <= 2 * theirs_off + one_ulp


def error_of(call: Callable[[], object]) -> tuple[type[Exception], str]:
    with pytest.raises((ValueError, RuntimeError)) as caught:
        call()
    return caught.type, str(caught.value)


@pytest.mark.parametrize(
    ("name", "options", "shape"),
    [
        ("BatchNorm1d", {"num_features": 6}, (1, 6)),
        ("BatchNorm2d", {"num_features": 6}, (4, 6, 5)),
        ("BatchNorm2d", {"num_features": 6}, (4, 5, 3, 3)),
        ("BatchNorm3d", {"num_features": 6}, (4, 6, 5, 3)),
        ("LayerNorm", {"normalized_shape": 6}, (4, 5)),
        ("LayerNorm", {"normalized_shape": (3, 6)}, (4, 6, 3)),
        ("InstanceNorm2d", {"num_features": 6}, (4, 6, 1, 1)),
        ("InstanceNorm2d", {"num_features": 6}, (4, 6)),
        ("InstanceNorm2d", {"num_features": 6, "affine": True}, (4, 5, 3, 3)),
    ],
)
def test_errors_are_torchs(name: str, options: dict[str, Any], shape: tuple[int, ...]) -> None:
    ours, theirs = make_pair(name, options, torch.float32)
    x = torch.randn(shape)
    assert error_of(lambda: ours(x)) == error_of(lambda: theirs(x))


@pytest.mark.parametrize(
    ("name", "options"),
    [("GroupNorm", {"num_groups": 3, "num_channels": 6}), ("RMSNorm", {"normalized_shape": 6})],
)
def test_wrong_channels_raise(name: str, options: dict[str, Any]) -> None:
    ours, theirs = make_pair(name, options, torch.float32)
    x = torch.randn(2, 9, 4)
    assert error_of(lambda: ours(x))[0] == error_of(lambda: theirs(x))[0]


def test_a_single_channel_does_not_broadcast() -> None:
    with pytest.raises(RuntimeError, match="should contain 1 elements not 6"):
        norms.BatchNorm2d(6)(torch.randn(4, 1, 3, 3))
