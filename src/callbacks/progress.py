"""A progress bar that takes almost no time."""

import time
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar

from src.models.logged_steps import LoggedSteps

REFRESHES_PER_SECOND = 5


class ProgressBar(RichProgressBar):
    """Lightning's bar, refreshed five times a second instead of after each batch, with the last logged loss.

    Reading a loss makes the host wait for the device. A loss that is logged with `prog_bar=True` would be read at every
    step. The losses of logged steps are read in any case.
    """

    def __init__(self) -> None:
        super().__init__(refresh_rate=REFRESHES_PER_SECOND)
        self._refreshed = 0.0
        self._loss: dict[str, float] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._steps = LoggedSteps(trainer)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        return {**super().get_metrics(trainer, pl_module), **self._loss}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        logged, now = self._steps.ended(trainer), time.monotonic()
        if logged and (loss := trainer.callback_metrics.get("train/loss")) is not None:
            self._loss = {"train/loss": loss.item()}
        last = batch_idx + 1 == trainer.num_training_batches
        if last or now - self._refreshed > 1 / REFRESHES_PER_SECOND:
            self._refreshed = now
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
