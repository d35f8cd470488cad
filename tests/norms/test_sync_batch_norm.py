"""Synchronized norms in N processes give the results of one process with the whole batch."""

from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from src.norms import InstanceNorm2d, SyncBatchNorm, synchronize
from src.norms.batch_norm import TokenBatchNorm
from src.norms.kernels.setting import use_kernels
from src.norms.kernels.synchronized import SynchronizedKernel
from src.norms.padding import padding_mask
from tests.helpers.ranks import Ranks

Shape = tuple[int, ...]
PARTS: dict[str, list[Shape]] = {  # the shape of each rank: several values, one, none, several
    "features": [(3, 5), (1, 5), (0, 5), (4, 5)],
    "sequences": [(2, 5, 3), (1, 5, 1), (0, 5, 2), (1, 5, 7)],
    "maps": [(2, 5, 3, 4), (1, 5, 1, 1), (0, 5, 3, 2), (3, 5, 2, 5)],
    "volumes": [(2, 5, 3, 2, 2), (1, 5, 1, 1, 1), (0, 5, 1, 2, 1), (1, 5, 2, 3, 2)],
}


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    with Ranks(4) as running:
        yield running


def inputs(shape: Shape, dtype: torch.dtype, rank: int | None = None) -> Tensor:
    """The input of a rank. The distributions of the ranks differ."""
    rank = dist.get_rank() if rank is None else rank
    generator = torch.Generator().manual_seed(rank)
    return (torch.randn(shape, generator=generator, dtype=torch.float64) * (1 + rank) + 3 - rank).to(dtype)


def parameters(layer: nn.Module) -> None:
    """Set weight and bias to values other than 1 and 0."""
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.linspace(0.5, 1.5, len(parameter)))


def step(layer: nn.Module, x: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
    """The output, gradients and buffers of a forward and a backward pass.

    The loss is not linear in the output. The loss uses only the outputs that `mask` selects.
    """
    parameters(layer)
    x.requires_grad_()
    y = layer(x) if mask is None else layer(x)[mask]
    (y.float() if y.dtype.itemsize < 4 else y).pow(3).sum().backward()
    assert x.grad is not None
    found = {
        "output": y.detach(),
        "input's gradient": x.grad,
        **{f"{name}'s gradient": p.grad for name, p in layer.named_parameters() if p.grad is not None},
        **{name: buffer.clone() for name, buffer in layer.named_buffers()},
    }
    return {name: value.cpu() for name, value in found.items()}


def sync_step(
    shapes: list[Shape], dtype: torch.dtype, parameter_dtype: torch.dtype, device: str = "cpu"
) -> dict[str, Tensor]:
    layer = SyncBatchNorm(5).to(device, parameter_dtype)
    return step(layer, inputs(shapes[dist.get_rank()], dtype).to(device))


def values(x: Tensor) -> Tensor:
    """Reshape `(N, C, *)` to `(values, C)`."""
    return x.movedim(1, -1).reshape(-1, x.shape[1])


def joined(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Join the ranks' results into the results of one process with the whole batch."""
    whole = {}
    for name in parts[0]:
        found = [part[name] for part in parts]
        if name in ("output", "input's gradient"):
            whole[name] = torch.cat([values(value) for value in found])
        elif "gradient" in name:
            whole[name] = torch.stack(found).sum(0)
        else:
            assert all(torch.equal(value, found[0]) for value in found), f"{name} differs between the ranks"
            whole[name] = found[0]
    return whole


def assert_near(found: dict[str, Tensor], expected: dict[str, Tensor], relative: float) -> None:
    """Assert that no error is above `relative` times the tensor's largest value."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        error = (found[name].double() - value.double()).abs().max() / value.double().abs().max()
        assert error <= relative, f"{name}: relative error {error:.1e}, expected at most {relative:.0e}"


def assert_ranks_are_one_process(ranks: Ranks, shapes: list[Shape], device: str = "cpu") -> None:
    for dtype, relative in (torch.float64, 1e-10), (torch.float32, 1e-5):
        found = joined(ranks(len(shapes), sync_step, shapes, dtype, dtype, device))
        whole = torch.cat([values(inputs(shape, dtype, rank)) for rank, shape in enumerate(shapes)])
        assert_near(found, step(nn.BatchNorm1d(5).to(dtype), whole), relative)


@pytest.mark.parametrize("world_size", [2, 3, 4])
@pytest.mark.parametrize("kind", PARTS)
def test_ranks_are_one_process(ranks: Ranks, kind: str, world_size: int) -> None:
    """Outputs, gradients and running statistics are those of the whole batch.

    The ranks have different numbers of samples and positions. A rank may have one value per channel, or none.
    """
    assert_ranks_are_one_process(ranks, PARTS[kind][:world_size])


@pytest.mark.parametrize("parameter_dtype", ["float32", "same"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(ranks: Ranks, dtype: torch.dtype, parameter_dtype: str) -> None:
    """Each error is at most twice torch's error plus the rounding error of the largest value."""
    assert_half_precision(ranks, PARTS["maps"], dtype, torch.float32 if parameter_dtype == "float32" else dtype)


def assert_half_precision(
    ranks: Ranks, shapes: list[Shape], dtype: torch.dtype, parameter_dtype: torch.dtype, device: str = "cpu"
) -> None:
    found = joined(ranks(len(shapes), sync_step, shapes, dtype, parameter_dtype, device))
    whole = torch.cat([values(inputs(shape, dtype, rank)) for rank, shape in enumerate(shapes)])
    exact = step(nn.BatchNorm1d(5).double(), whole.double())
    theirs = step(nn.BatchNorm1d(5).to(parameter_dtype), whole.clone())
    for name, value in exact.items():
        error, their_error = ((each[name].double() - value).abs().max() for each in (found, theirs))
        rounding = torch.finfo(dtype).eps * value.abs().max()
        assert error <= 2 * their_error + rounding, f"{name}: {error:.1e}, torch's {their_error:.1e}"


def on_some_ranks_by_kernels(shape: Shape, channels_last: bool) -> tuple[int, dict[str, Tensor]]:
    """The number of kernel calls, and the results of a step. Rank 1 runs no kernels.

    The gradients of the output have a large part in common, which cancels.
    """
    counted = patch.object(SynchronizedKernel, "forward", autospec=True, side_effect=SynchronizedKernel.forward)
    with use_kernels(dist.get_rank() != 1), counted as by:
        layer, x = SyncBatchNorm(5), inputs(shape, torch.float32)
        x = x.to(memory_format=torch.channels_last) if channels_last else x
        x.requires_grad_()
        parameters(layer)
        y = layer(x)
        (y.sin() + 10 * y).sum().backward()
    assert x.grad is not None
    return by.call_count, {"output": y.detach(), "input's gradient": x.grad, "weight's gradient": layer.weight.grad}


def with_a_weight_in_steps(shape: Shape) -> dict[str, Tensor]:
    layer = SyncBatchNorm(5)
    layer.weight = nn.Parameter(torch.full((5, 2), torch.nan)[:, 0])
    return step(layer, inputs(shape, torch.float32))


def test_a_weight_that_is_not_contiguous(ranks: Ranks) -> None:
    shape = (3, 5, 4, 2)
    found = ranks(2, with_a_weight_in_steps, shape)
    expected = ranks(2, sync_step, [shape] * 2, torch.float32, torch.float32)
    for one, other in zip(found, expected, strict=True):
        assert_near(one, other, 1e-5)


@pytest.mark.parametrize("channels_last", [False, True])
def test_kernels_beside_the_formula(ranks: Ranks, channels_last: bool) -> None:
    shape = (3, 5, 4, 2)
    counts, parts = zip(*ranks(3, on_some_ranks_by_kernels, shape, channels_last), strict=True)
    assert counts == (1, 0, 1)
    layer, x = nn.BatchNorm1d(5).double(), torch.cat([values(inputs(shape, torch.float64, rank)) for rank in range(3)])
    parameters(layer)
    x.requires_grad_()
    y = layer(x)
    (y.sin() + 10 * y).sum().backward()
    expected = {"output": y.detach(), "input's gradient": x.grad, "weight's gradient": layer.weight.grad}
    assert_near(joined(list(parts)), expected, 1e-5)


def common_part(dtype: torch.dtype) -> Tensor:
    x = inputs((4, 5, 3, 3), dtype).requires_grad_()
    SyncBatchNorm(5)(x).backward(10 + inputs((4, 5, 3, 3), dtype).detach())
    assert x.grad is not None
    return x.grad


def test_what_cancels_is_not_rounded_first(ranks: Ranks) -> None:
    """The input gradient in bfloat16 is accurate where the output gradient has a large constant part, which cancels."""
    found = torch.cat([values(gradient) for gradient in ranks(2, common_part, torch.bfloat16)]).double()
    whole, dy = (torch.cat([values(inputs((4, 5, 3, 3), torch.bfloat16, rank)) for rank in range(2)]) for _ in range(2))
    gradients = []
    for dtype in torch.float64, torch.bfloat16:
        x = whole.to(dtype).requires_grad_()
        nn.BatchNorm1d(5, dtype=torch.float64 if dtype == torch.float64 else torch.float32)(x).backward(
            (10 + dy).to(dtype)
        )
        assert x.grad is not None
        gradients.append(x.grad.double())
    exact, theirs = gradients
    error, their_error = ((each - exact).abs().max() for each in (found, theirs))
    assert error <= 2 * their_error + torch.finfo(torch.bfloat16).eps * exact.abs().max()


def options_step(options: dict[str, Any], dtype: torch.dtype) -> dict[str, Tensor]:
    layer = SyncBatchNorm(5, **options).to(dtype)
    for _ in range(2):
        found = step(layer, inputs(PARTS["maps"][dist.get_rank()], dtype))
        layer.zero_grad()
    return found


@pytest.mark.parametrize(
    "options", [{"momentum": None}, {"track_running_stats": False}, {"affine": False}], ids=lambda o: next(iter(o))
)
def test_options(ranks: Ranks, options: dict[str, Any]) -> None:
    found = joined(ranks(3, options_step, options, torch.float64))
    layer = nn.BatchNorm1d(5, **options).double()
    for _ in range(2):
        whole = torch.cat([values(inputs(PARTS["maps"][rank], torch.float64, rank)) for rank in range(3)])
        expected = step(layer, whole)
        layer.zero_grad()
    assert_near(found, expected, 1e-10)


def collectives_of(function: Callable[[], Any]) -> list[str]:
    """The collectives that this process joins while `function` runs."""
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        function()
    return [event.name for event in seen.events() if event.name.startswith("c10d::")]


def passes(shape: Shape) -> tuple[list[str], list[str], list[str]]:
    layer, x = SyncBatchNorm(5), inputs(shape, torch.float32).requires_grad_()
    outputs: list[Tensor] = []
    forward = collectives_of(lambda: outputs.append(layer(x)))
    backward = collectives_of(outputs[0].sum().backward)
    layer.eval()
    return forward, backward, collectives_of(lambda: layer(x).sum().backward())


def test_one_collective_each_way_and_none_in_eval(ranks: Ranks) -> None:
    for forward, backward, in_eval in ranks(2, passes, (2, 5, 3, 3)):
        assert (len(forward), len(backward), len(in_eval)) == (1, 1, 0)


def in_groups() -> dict[str, Tensor]:
    groups = [dist.new_group([0, 2]), dist.new_group([1])]
    group = groups[dist.get_rank() % 2]
    return step(SyncBatchNorm(5, process_group=group).double(), inputs((2, 5, 3, 3), torch.float64))


def test_process_groups(ranks: Ranks) -> None:
    """The statistics are only those of the group; in a group of one process, the layer is a plain BatchNorm."""
    found = ranks(3, in_groups)
    for members in ([0, 2], [1]):
        whole = torch.cat([values(inputs((2, 5, 3, 3), torch.float64, rank)) for rank in members])
        assert_near(joined([found[rank] for rank in members]), step(nn.BatchNorm1d(5).double(), whole), 1e-10)


def one_value() -> str:
    try:
        SyncBatchNorm(5)(torch.zeros(1, 5))
    except ValueError as error:
        return str(error)
    return ""


def test_one_value_in_all(ranks: Ranks) -> None:
    assert ranks(1, one_value)[0].startswith("Expected more than 1 value per channel when training")
    assert ranks(2, one_value) == ["", ""]


def tokens(rank: int) -> tuple[Tensor, Tensor]:
    """An input `(B, T, 5)` and its mask; rank 1 has only padding."""
    x = inputs((2, 4 + rank, 5), torch.float64, rank)
    lengths = torch.tensor([[[4], [1]], [[0], [0]], [[2], [6]]][rank])
    return x, torch.arange(x.shape[1]) < lengths


def masked_step() -> dict[str, Tensor]:
    x, mask = tokens(dist.get_rank())
    layer = TokenBatchNorm(5).double()
    synchronize(layer)
    with padding_mask(mask):
        found = step(layer, x, mask)
    return {**found, "input's gradient": found["input's gradient"][mask]}


def test_padding(ranks: Ranks) -> None:
    """The statistics are those of the tokens of all ranks, without padding."""
    parts = [tokens(rank) for rank in range(3)]
    expected = step(nn.BatchNorm1d(5).double(), torch.cat([x[mask] for x, mask in parts]))
    assert_near(joined(ranks(3, masked_step)), expected, 1e-10)


def second_derivative() -> tuple[Tensor, Tensor]:
    layer = SyncBatchNorm(5).double()
    parameters(layer)
    x = inputs((2, 5, 3, 2), torch.float64).requires_grad_()
    (dx,) = torch.autograd.grad(layer(x).pow(3).sum(), x, create_graph=True)
    dx.pow(2).sum().backward()
    assert x.grad is not None
    assert layer.weight.grad is not None
    return x.grad, layer.weight.grad


def test_double_backward(ranks: Ranks) -> None:
    """The derivative of a gradient's squared norm is right; it goes through the statistics of all ranks twice."""
    found = ranks(3, second_derivative)
    layer = nn.BatchNorm1d(5).double()
    parameters(layer)
    x = torch.cat([values(inputs((2, 5, 3, 2), torch.float64, rank)) for rank in range(3)]).requires_grad_()
    (dx,) = torch.autograd.grad(layer(x).pow(3).sum(), x, create_graph=True)
    dx.pow(2).sum().backward()
    assert_close(torch.cat([values(gradient) for gradient, _ in found]), x.grad, rtol=1e-9, atol=1e-9)
    assert_close(torch.stack([dweight for _, dweight in found]).sum(0), layer.weight.grad, rtol=1e-9, atol=1e-9)


def tracked_instances() -> dict[str, Tensor]:
    layer = InstanceNorm2d(5, track_running_stats=True).double()
    synchronize(layer)
    layer(inputs((dist.get_rank(), 5, 3, 2), torch.float64))
    layer(inputs((0, 5, 3, 2), torch.float64))  # no rank has a sample, so no statistic moves
    return dict(layer.named_buffers())


def test_running_statistics_of_instances(ranks: Ranks) -> None:
    """Running statistics are averages over the samples of all ranks; one rank has no samples."""
    found = joined(ranks(3, tracked_instances))
    layer = nn.InstanceNorm2d(5, track_running_stats=True).double()
    layer(torch.cat([inputs((rank, 5, 3, 2), torch.float64, rank) for rank in range(3)]))
    for name in ("running_mean", "running_var"):
        assert_close(found[name], getattr(layer, name), rtol=1e-10, atol=0)


def recomputed() -> dict[str, Tensor]:
    layer = SyncBatchNorm(5).double()
    parameters(layer)
    x = inputs(PARTS["maps"][dist.get_rank()], torch.float64).requires_grad_()
    y = checkpoint(layer, x, use_reentrant=False)
    y.pow(3).sum().backward()
    return {"output": y.detach(), "input's gradient": x.grad, **dict(layer.named_buffers())}


def test_activation_checkpointing(ranks: Ranks) -> None:
    found = joined(ranks(3, recomputed))
    plain = joined(ranks(3, sync_step, PARTS["maps"], torch.float64, torch.float64))
    assert_near(found, {name: plain[name] for name in found}, 1e-12)
    assert found["num_batches_tracked"] == 1


def compiled() -> dict[str, Tensor]:
    torch.compiler.reset()
    layer = SyncBatchNorm(5).double()
    layer.compile(backend="aot_eager", fullgraph=True)
    return step(layer, inputs((2, 5, 3, 2), torch.float64))


def test_compiled(ranks: Ranks) -> None:
    """torch.compile makes one graph, which contains the collectives."""
    found = joined(ranks(2, compiled))
    whole = torch.cat([values(inputs((2, 5, 3, 2), torch.float64, rank)) for rank in range(2)])
    assert_near(found, step(nn.BatchNorm1d(5).double(), whole), 1e-10)
