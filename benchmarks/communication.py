"""What synchronized batch norms send in one training step, counted with processes that are not there.

python -m benchmarks.communication [--backbone resnet50] [--ranks 2 8 64 1024] [--latency 5e-6] [--bandwidth 50e9]

With R ranks and a layer of C channels, of 4 bytes each: forward, one all-gather in which a rank sends its row of 2C + 1
numbers and receives R - 1 others; backward, one all-reduce of 2C numbers; beside these the gradients' all-reduce of all
P parameters. On rings, a rank receives

    all-gather of n bytes a rank: (R - 1) n        all-reduce of n bytes: 2 (R - 1) / R n

in R - 1 and 2 (R - 1) hops; on trees, which libraries take for small messages where there are many ranks, in fewer.
The estimate is hops * latency + bytes / bandwidth. Nothing else goes on while a norm's
collectives run, while the gradients' overlap with the backward pass.
"""

import argparse
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.machine import conditions
from benchmarks.timing import table
from src.models import ImageClassifier
from src.norms import NORMS, synchronize

Collective = tuple[str, int]  # its name, and the bytes that a rank puts in
ROWS = {"_allgather_base_": 1, "allreduce_": 0}  # the argument that holds what a rank puts in


class Collectives(TorchDispatchMode):
    """The collectives that are called while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Collective] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            tensors = args[ROWS[func._opname]]
            tensors = tensors if isinstance(tensors, list) else [tensors]
            self.seen.append((func._opname, sum(t.nbytes for t in tensors)))
        return func(*args, **(kwargs or {}))


def step_of_norms(model: torch.nn.Module, x: torch.Tensor) -> list[Collective]:
    """The collectives of the synchronized norms of `model` in a forward and a backward pass."""
    with Collectives() as found:
        model(x).sum().backward()
    return found.seen


def step_of_gradients(model: torch.nn.Module, x: torch.Tensor) -> list[Collective]:
    """The all-reduces of the gradients in the same step."""
    seen: list[Collective] = []

    def reduce(state: object, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        seen.append(("allreduce_", bucket.buffer().nbytes))
        done: torch.futures.Future[torch.Tensor] = torch.futures.Future()
        done.set_result(bucket.buffer())
        return done

    parallel = DistributedDataParallel(model)
    parallel.register_comm_hook(None, reduce)
    for _ in range(2):  # the first finds the order in which gradients come, and the buckets follow it
        seen.clear()
        parallel(x).sum().backward()
    return seen


def received(collective: Collective, ranks: int) -> tuple[int, float]:
    """Hops and bytes that a rank receives, on a ring."""
    name, size = collective
    if name == "_allgather_base_":
        return ranks - 1, (ranks - 1) * size
    return 2 * (ranks - 1), 2 * (ranks - 1) / ranks * size


def rows(backbone: str, worlds: list[int], latency: float, bandwidth: float) -> Iterator[list[object]]:
    for ranks in worlds:
        dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
        model = ImageClassifier(num_classes=1000, in_channels=3, norm=NORMS["BatchNorm"], backbone=backbone)
        synchronize(model)
        x = torch.randn(2, 3, 64, 64)
        found = {"norms": step_of_norms(model, x), "gradients": step_of_gradients(model, x)}
        for what, collectives in found.items():
            hops, size = (sum(each) for each in zip(*(received(c, ranks) for c in collectives), strict=True))
            milliseconds = (hops * latency + size / bandwidth) * 1e3
            yield [backbone, ranks, what, len(collectives), f"{size / 1e6:.1f}", f"{milliseconds:.1f}"]
        dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 8, 64, 1024])
    parser.add_argument("--latency", type=float, default=5e-6, help="seconds a hop")
    parser.add_argument("--bandwidth", type=float, default=50e9, help="bytes a second that a rank receives")
    options = parser.parse_args()
    header = ["model", "ranks", "for", "collectives a step", "MB that a rank receives", "estimate, ms"]
    print(table(header, rows(options.backbone, options.ranks, options.latency, options.bandwidth)))
    print(f"\nOf {options.latency * 1e6:g} microseconds a hop and {options.bandwidth / 1e9:g} GB/s. {conditions()}")


if __name__ == "__main__":
    main()
