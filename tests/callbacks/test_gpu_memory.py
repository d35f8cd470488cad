"""Peak memory of a GPU. The tests that run without a GPU replace torch's functions for it."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from src.callbacks import GPUMemory


def logged(device: str, every: int, start: int = 0) -> list[tuple[int, float]]:
    """The logged values and their steps, in four steps of two batches each. The run resumes after `start` steps."""
    found: list[tuple[int, float]] = []
    trainer: Any = SimpleNamespace(global_step=start, log_every_n_steps=every)
    module: Any = SimpleNamespace(
        device=torch.device(device), log=lambda name, value, batch_size: found.append((trainer.global_step, value))
    )
    callback = GPUMemory()
    callback.on_train_start(trainer, module)
    for batch in range(8):
        trainer.global_step = start + (batch + 1) // 2
        callback.on_train_batch_end(trainer, module, None, None, batch)
    return found


def test_the_peak_since_training_began(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = {"cuda:1": [4 * 2**20]}
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: peaks.update({str(device): [2**20]}))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: peaks[str(device)][0])
    assert logged("cuda:1", every=2) == [(2, 1.0), (4, 1.0)]
    assert logged("cuda:1", every=2, start=2) == [(4, 1.0), (6, 1.0)]


def test_a_cpu_has_none() -> None:
    assert logged("cpu", every=1) == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_tensor_counts_though_it_is_gone() -> None:
    torch.empty(2**28, device="cuda")  # allocated before training, so not counted
    assert 0 <= logged("cuda", every=4)[0][1] < 2**8
