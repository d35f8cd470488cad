"""A process that fails in the middle of a run."""

import os
import signal
import time
from typing import Any, Literal

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException


class Fail(Callback):
    """Has one process raise, be killed, or never come to what the others wait for, in the second training batch."""

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
        if self.how == "end":  # as a launcher has it end, which has seen another process fail
            os.kill(os.getpid(), signal.SIGTERM)
            raise RuntimeError("third_party/gloo: Connection reset by peer")
        if self.how == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(3600)
