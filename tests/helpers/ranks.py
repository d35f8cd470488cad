"""Processes on this machine that run a function of a test together."""

import os
import tempfile
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

TIMEOUT = timedelta(seconds=60)  # for a collective that a process does not join


class Ranks(AbstractContextManager["Ranks"]):
    """Processes that are reused between calls, so that their imports take time only once."""

    def __init__(self, count: int, backend: str = "gloo") -> None:
        context = mp.get_context("spawn")
        self.folder = tempfile.TemporaryDirectory()
        self.worlds = 0
        self.ends: list[Connection] = []
        self.processes = []
        for rank in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(rank, theirs, backend), daemon=True)
            process.start()
            theirs.close()
            self.ends.append(ours)
            self.processes.append(process)

    def __call__(self, world_size: int, function: Callable[..., Any], *args: Any) -> list[Any]:
        """The results of `function(*args)` in each of `world_size` processes, which form a process group."""
        self.worlds += 1
        store = str(Path(self.folder.name, str(self.worlds)))
        for end in self.ends[:world_size]:
            end.send((world_size, store, function, args))
        results = [end.recv() for end in self.ends[:world_size]]
        errors = [f"rank {rank}:\n{error}" for rank, (error, _) in enumerate(results) if error]
        assert not errors, "\n".join(errors)
        return [value for _, value in results]

    def __exit__(self, *args: object) -> None:
        for end in self.ends:
            end.close()
        for process in self.processes:
            process.join()
        self.folder.cleanup()


def _serve(rank: int, end: Connection, backend: str) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    if torch.cuda.is_available():
        torch.cuda.set_device(rank % torch.cuda.device_count())
    while True:
        try:
            world_size, file, function, args = end.recv()
        except EOFError:
            return
        dist.init_process_group(
            backend, store=dist.FileStore(file, world_size), rank=rank, world_size=world_size, timeout=TIMEOUT
        )
        try:
            torch.manual_seed(0)
            end.send(("", function(*args)))
        except Exception:
            end.send((traceback.format_exc(), None))
        finally:
            dist.destroy_process_group()
