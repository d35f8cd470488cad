"""`--trainer.sync_batchnorm=true` for norms of ours: Lightning's own plugin would replace them by torch's."""

from collections.abc import Callable

from lightning import LightningModule, Trainer
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.plugins import TorchSyncBatchNorm
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, FSDPStrategy, ParallelStrategy
from torch import nn

from src.norms import check_synchronizable, synchronize


class SyncNorms(TorchSyncBatchNorm):
    """A plugin for `Trainer(sync_batchnorm=True)` that synchronizes the layers in place and replaces none of them."""

    _undo: Callable[[], None]

    def apply(self, model: nn.Module) -> nn.Module:
        self._undo = synchronize(model)
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        self._undo()
        return model


def check_sync(trainer: Trainer, model: LightningModule) -> None:
    """Check that the trainer can synchronize the model's norms.

    Raises:
        ValueError: the strategy or a norm cannot be synchronized; the message says what to choose instead.
    """
    strategy = trainer.strategy
    if not isinstance(strategy, ParallelStrategy):
        return  # a single process has nothing to synchronize with
    if not isinstance(strategy, DDPStrategy | FSDPStrategy) or isinstance(strategy, DeepSpeedStrategy):
        raise ValueError(
            f"sync_batchnorm=true has no effect under {type(strategy).__name__}: take --trainer.strategy=ddp or fsdp, "
            "or a norm of single samples, such as --model.norm=GroupNorm, and no sync_batchnorm"
        )
    check_synchronizable(model, on_cpu=isinstance(trainer.accelerator, CPUAccelerator))
