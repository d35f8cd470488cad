"""The cost of synchronized batch norms: the bytes that they send, and the time that they take.

    python -m benchmarks.synchronization sent [--backbone resnet50] [--ranks 2 8 64 1024] [--latency 5e-6]
        [--bandwidth 50e9]
    python -m benchmarks.synchronization time [--ranks 2]

sent: the collectives of one training step, counted with a process group of which only one process exists. A rank is a
process, R is the number of ranks, and a layer has C channels of 4 bytes each. Forward, one all-gather: a rank sends a
row of 2C + 1 numbers and receives R - 1 other rows. Backward, one all-reduce of 2C numbers. Beside these stands the
all-reduce of the gradients of all P parameters. On rings, a rank receives

    all-gather of n bytes a rank: (R - 1) n        all-reduce of n bytes: 2 (R - 1) / R n

in R - 1 and 2 (R - 1) hops. On trees, which libraries use for small messages between many ranks, it takes fewer hops.
The estimate is hops * latency + bytes / bandwidth. Nothing overlaps with the collectives of a norm. The collectives of
the gradients overlap with the backward pass.

time: a forward and a backward pass of our layer, beside torch's layer and beside our layer in one process. On GPUs,
each process has one GPU and uses NCCL. With fewer GPUs than processes, the processes share the GPUs and use gloo. On
CPU, the processes use gloo, with one thread each; torch's layer cannot synchronize there.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.timing import conditions, in_turn, options_parser
from src.markdown import markdown_table
from src.models import ImageClassifier
from src.norms import NORMS, BatchNorm2d, SyncBatchNorm, synchronize

Collective = tuple[str, int]  # its name, and the bytes that a rank sends
SENT = {"_allgather_base_": 1, "allreduce_": 0}  # the position of the argument that a rank sends


class Collectives(TorchDispatchMode):
    """Records the collectives that are called inside a `with` block."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Collective] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            tensors = args[SENT[func._opname]]
            tensors = tensors if isinstance(tensors, list) else [tensors]
            self.seen.append((func._opname, sum(t.nbytes for t in tensors)))
        return func(*args, **(kwargs or {}))


def step_of_norms(model: nn.Module, x: Tensor) -> list[Collective]:
    """The collectives of the synchronized norms in a forward and a backward pass of `model`."""
    with Collectives() as found:
        model(x).sum().backward()
    return found.seen


def step_of_gradients(model: nn.Module, x: Tensor) -> list[Collective]:
    """The all-reduces of the gradients in the same step."""
    seen: list[Collective] = []

    def reduce(state: object, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        seen.append(("allreduce_", bucket.buffer().nbytes))
        done: torch.futures.Future[Tensor] = torch.futures.Future()
        done.set_result(bucket.buffer())
        return done

    parallel = DistributedDataParallel(model)
    parallel.register_comm_hook(None, reduce)
    for _ in range(2):  # the first step finds the order of the gradients, and the buckets of the second follow it
        seen.clear()
        parallel(x).sum().backward()
    return seen


def received(collective: Collective, ranks: int) -> tuple[int, float]:
    """The hops on a ring, and the bytes that a rank receives."""
    name, size = collective
    if name == "_allgather_base_":
        return ranks - 1, (ranks - 1) * size
    return 2 * (ranks - 1), 2 * (ranks - 1) / ranks * size


def sent_rows(backbone: str, worlds: list[int], latency: float, bandwidth: float) -> Iterator[list[object]]:
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


SHAPES = ((32, 64, 32, 32), (32, 256, 8, 8), (32, 512, 4, 4))
WARM_UP, ROUNDS, STEPS = 3, 15, 5


def stopwatch(layer: nn.Module, x: Tensor, dy: Tensor, wait: Callable[[], object]) -> Callable[[], float]:
    """A function that all processes call together, and that returns the milliseconds of a step of `layer`."""

    def milliseconds() -> float:
        dist.barrier()
        start = time.perf_counter()
        for _ in range(STEPS):
            layer(x).backward(dy)
        wait()
        return (time.perf_counter() - start) / STEPS * 1e3

    return milliseconds


def time_rows(rank: int, ranks: int, store: str) -> None:
    """Measure in one of several processes. The first process prints the table."""
    torch.set_num_threads(1)
    count = torch.cuda.device_count()
    device = torch.device("cuda", rank % count) if count else torch.device("cpu")
    if count:
        torch.cuda.set_device(device)
    backend = "nccl" if count >= ranks else "gloo"
    wait = torch.cuda.synchronize if count else lambda: None
    dist.init_process_group(
        backend, store=dist.FileStore(store, ranks), rank=rank, world_size=ranks, timeout=timedelta(minutes=2)
    )
    rows: list[list[object]] = []
    for shape in SHAPES:
        x = torch.randn(shape, device=device, requires_grad=True)
        dy = torch.randn(shape, device=device)
        layers: dict[str, nn.Module] = {"ours": SyncBatchNorm(shape[1]), "alone": BatchNorm2d(shape[1])}
        if count:
            layers["torch"] = nn.SyncBatchNorm(shape[1])
        samples = in_turn(
            {name: stopwatch(layer.to(device), x, dy, wait) for name, layer in layers.items()}, WARM_UP + ROUNDS
        )
        took = {name: statistics.median(values[WARM_UP:]) for name, values in samples.items()}
        torch_took = took.get("torch")
        theirs = (f"{torch_took:.2f}", took["ours"] / torch_took) if torch_took else ("-", "-")
        rows.append(["x".join(map(str, shape)), f"{took['ours']:.2f}", *theirs, took["ours"] / took["alone"]])
    if rank == 0:
        header = ["shape of each process", "ours, ms", "torch's, ms", "ours / torch's", "ours / ours alone"]
        print(markdown_table(header, rows))
        where = torch.cuda.get_device_name(device) if count else "CPU"
        print(f"\n{ranks} processes on {where} over {backend}. {conditions()}")
    dist.destroy_process_group()


def main() -> None:
    parser = options_parser(__doc__)
    commands = parser.add_subparsers(dest="of", required=True)
    sent = commands.add_parser("sent", help="count the bytes")
    sent.add_argument("--backbone", default="resnet50")
    sent.add_argument("--ranks", type=int, nargs="+", default=[2, 8, 64, 1024])
    sent.add_argument("--latency", type=float, default=5e-6, help="seconds a hop")
    sent.add_argument("--bandwidth", type=float, default=50e9, help="bytes a second that a rank receives")
    commands.add_parser("time", help="measure the time").add_argument("--ranks", type=int, default=2)
    options = parser.parse_args()
    if options.of == "time":
        with tempfile.TemporaryDirectory() as folder:
            mp.spawn(time_rows, (options.ranks, str(Path(folder, "store"))), options.ranks)
        return
    header = ["model", "ranks", "for", "collectives a step", "MB that a rank receives", "estimate, ms"]
    print(markdown_table(header, sent_rows(options.backbone, options.ranks, options.latency, options.bandwidth)))
    print(f"\nOf {options.latency * 1e6:g} microseconds a hop and {options.bandwidth / 1e9:g} GB/s. {conditions()}")


if __name__ == "__main__":
    main()
