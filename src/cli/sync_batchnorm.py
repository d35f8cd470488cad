"""What `--trainer.sync_batchnorm=true` does: Lightning's own plugin would put torch's layers in the place of ours."""

from collections.abc import Callable

from lightning import LightningModule, Trainer
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.plugins import TorchSyncBatchNorm
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, FSDPStrategy, ParallelStrategy
from torch import nn

from src.norms import check_synchronizable, synchronize


class SyncNorms(TorchSyncBatchNorm):
    """A plugin for `Trainer(sync_batchnorm=True)` that leaves every layer the object that it is."""

    _undo: Callable[[], None]

    def apply(self, model: nn.Module) -> nn.Module:
        self._undo = synchronize(model)
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        self._undo()
        return model


def check_sync(trainer: Trainer, model: LightningModule) -> None:
    """Raise where the trainer would train on many processes without the synchronization that it was asked for.

    Raises:
        ValueError: what cannot be, and the way out.
    """
    strategy = trainer.strategy
    if not isinstance(strategy, ParallelStrategy):
        return  # one process, which has nothing to synchronize with
    if not isinstance(strategy, DDPStrategy | FSDPStrategy) or isinstance(strategy, DeepSpeedStrategy):
        raise ValueError(
            f"sync_batchnorm=true has no effect under {type(strategy).__name__}: take --trainer.strategy=ddp or fsdp, "
            "or a norm of single samples, such as --model.norm=GroupNorm, and no sync_batchnorm"
        )
    check_synchronizable(model, on_cpu=isinstance(trainer.accelerator, CPUAccelerator))
