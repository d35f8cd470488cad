"""The peak memory of training on a GPU."""

from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from src.models.logged_steps import LoggedSteps

MIB = 2**20


class GPUMemory(Callback):
    """Logs `train/peak_gpu_memory_mib` with each logged step: the most memory that tensors have had at once so far.

    The number is that of the first process's GPU. PyTorch's allocator counts it without waiting for the device. On a
    CPU nothing is logged. Lightning's DeviceStatsMonitor would log all counters of the allocator.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._steps = LoggedSteps(trainer)
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._steps.ended(trainer) and pl_module.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(pl_module.device)
            pl_module.log("train/peak_gpu_memory_mib", peak / MIB, batch_size=1)
