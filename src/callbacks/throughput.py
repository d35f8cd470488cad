"""Samples per second in training, and seconds per step."""

import time
from typing import Any

from lightning import Callback, LightningModule, Trainer

from src.models.logged_steps import LoggedSteps


class SamplesPerSecond(Callback):
    """Logs `train/samples_per_second`, over all processes, and `train/seconds_per_step` with each logged step.

    The time between two logged steps is measured, without validation, and the host never waits for the device: after
    some steps the queue of a GPU is full, and host time equals device time. Lightning's ThroughputMonitor would wait
    for the GPU at every step.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._steps = LoggedSteps(trainer)

    def _restart(self, trainer: Trainer) -> None:
        self._since = time.perf_counter()
        self._samples = 0
        self._step = trainer.global_step

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restart(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restart(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._samples += len(batch[1])
        if self._steps.ended(trainer):
            seconds = time.perf_counter() - self._since
            speed = {
                "train/samples_per_second": self._samples * trainer.world_size / seconds,
                "train/seconds_per_step": seconds / (trainer.global_step - self._step),
            }
            pl_module.log_dict(speed, batch_size=1)
            self._restart(trainer)
