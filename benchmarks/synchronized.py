"""What synchronized batch norms take: forward and backward, ours beside torch's, and beside ours of one process.

python -m benchmarks.synchronized [--ranks N]

On GPUs, one a process, over NCCL; where there are fewer, the processes share one over gloo. On CPU, where torch's has
no form that synchronizes, over gloo with one thread each.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from benchmarks.machine import conditions
from benchmarks.timing import table
from src.norms import BatchNorm2d, SyncBatchNorm

SHAPES = ((32, 64, 32, 32), (32, 256, 8, 8), (32, 512, 4, 4))
WARM_UP, ROUNDS, STEPS = 3, 15, 5


def medians(steps: Mapping[str, Callable[[], object]], wait: Callable[[], object]) -> dict[str, float]:
    """Milliseconds of each step: medians over rounds in which all take their turn, in all processes together."""
    samples: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(WARM_UP + ROUNDS):
        for name, step in steps.items():
            dist.barrier()
            start = time.perf_counter()
            for _ in range(STEPS):
                step()
            wait()
            samples[name].append((time.perf_counter() - start) / STEPS * 1e3)
    return {name: statistics.median(values[WARM_UP:]) for name, values in samples.items()}


def step(layer: nn.Module, x: Tensor, dy: Tensor) -> None:
    layer(x).backward(dy)


def measure(rank: int, ranks: int, store: str) -> None:
    """What each process does; the first one prints the table."""
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
        took = medians({name: partial(step, layer.to(device), x, dy) for name, layer in layers.items()}, wait)
        torch_took = took.get("torch")
        theirs = (f"{torch_took:.2f}", took["ours"] / torch_took) if torch_took else ("-", "-")
        rows.append(["x".join(map(str, shape)), f"{took['ours']:.2f}", *theirs, took["ours"] / took["alone"]])
    if rank == 0:
        print(table(["shape of each process", "ours, ms", "torch's, ms", "ours / torch's", "ours / ours alone"], rows))
        where = torch.cuda.get_device_name(device) if count else "CPU"
        print(f"\n{ranks} processes on {where} over {backend}. {conditions()}")
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    ranks = parser.parse_args().ranks
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(measure, (ranks, str(Path(folder, "store"))), ranks)


if __name__ == "__main__":
    main()
