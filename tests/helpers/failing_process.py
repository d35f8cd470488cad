"""A callback that makes one process fail in the middle of a run."""

import os
import signal
import time
from typing import Any, Literal

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException


class Fail(Callback):
    """In the second training batch, makes one process raise, be killed, or hang while the others wait for it."""

    def __init__(self, rank: int, how: Literal["raise", "mistake", "kill", "hang", "stop", "end"]):
        self.rank = rank
        self.how = how

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_rank != self.rank or batch_idx != 1:
            return
        if self.how == "raise":
            raise ArithmeticError(f"the first error, of process {self.rank}")
        if self.how == "mistake":
            raise MisconfigurationException(f"a mistake, of process {self.rank}")
        if self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "end":  # as a launcher ends it, when another process has failed
            os.kill(os.getpid(), signal.SIGTERM)
            raise RuntimeError("third_party/gloo: Connection reset by peer")
        if self.how == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(3600)
