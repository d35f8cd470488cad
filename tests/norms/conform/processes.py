"""A norm and the samples of other processes; here the processes are threads, each with a rank of its own."""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.testing._internal.common_distributed import spawn_threads_and_init_comms
from torch.testing._internal.distributed.multi_threaded_pg import ThreadLocalWorld

from tests.norms.conform.numbers import assert_equal
from tests.norms.conform.registry import check
from tests.norms.conform.subjects import Subject

if not hasattr(ThreadLocalWorld, "comms"):  # torch 2.11 left it out where its threads end
    ThreadLocalWorld.comms = property(lambda world: [])


def synchronization(subject: Subject) -> str:
    """Whether the layer, in training, needs no other process' samples, shares its statistics, or is refused."""
    case = subject.cases[0]
    others = torch.cat([case.input[:1], case.input[1:] * 5])
    alone, among = (case.build(subject.ours, torch.float64)(x)[:1] for x in (case.input, others))
    if torch.equal(alone, among):
        return "not needed"
    try:
        subject.norms.check_synchronizable(case.build(subject.ours, torch.float64), on_cpu=True)
    except ValueError:
        return "refused"
    return "yes"


def outputs(layer: nn.Module, x: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    y = layer(x)
    y.pow(3).sum().backward()
    assert x.grad is not None
    return [y.detach(), x.grad]


@check()
def many_processes(subject: Subject) -> None:
    """Two processes with unequal shares of a batch get the outputs, input gradients and statistics of one process."""
    if synchronization(subject) == "refused":
        return
    batched = [case for case in subject.cases if case.input.ndim == max(c.input.ndim for c in subject.cases)]
    tracking = (
        case for case in batched if getattr(case.build(subject.ours, torch.float64), "running_mean", None) is not None
    )
    case = next(tracking, batched[0])
    batch = torch.cat((case.input, 3 * case.input[:1]))
    parts = [batch[:1], batch[1:]]
    layers = [case.build(subject.ours, torch.float64) for _ in parts]
    found: list[list[Tensor]] = [[] for _ in parts]

    @spawn_threads_and_init_comms(world_size=len(parts))  # type: ignore[untyped-decorator]
    def train(_: None) -> None:
        rank = dist.get_rank()
        subject.norms.synchronize(layers[rank])
        found[rank] += outputs(layers[rank], parts[rank])

    train(None)
    whole = case.build(subject.ours, torch.float64)
    for name, expected, *shares in zip(("output", "dx"), outputs(whole, batch), *found, strict=True):
        assert_equal(torch.cat(shares), expected, name)
    for layer in layers:
        assert_equal(dict(layer.named_buffers()), dict(whole.named_buffers()), "running statistics")
