"""Train a classifier with Lightning's FSDP on two CPU processes: `python -m tests.helpers.sharded_run FOLDER`.

Lightning and torch assume that FSDP runs on GPUs; it works on CPU when both are given the device.
"""

import sys
from typing import Any
from unittest import mock

import torch
from lightning import Trainer, seed_everything
from lightning.pytorch.strategies import FSDPStrategy
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.fsdp.wrap import size_based_auto_wrap_policy

from src.cli.sync_batchnorm import SyncNorms
from src.data.sources.digits import Digits
from src.models import ImageClassifier, Recipe
from src.norms import NORMS


class OnCPU(FullyShardedDataParallel):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "device_id": torch.device("cpu")})


class CPUStrategy(FSDPStrategy):
    """A subclass, since Lightning refuses FSDPStrategy itself on CPU."""


def run(folder: str, batch_size: int, **options: Any) -> ImageClassifier:
    seed_everything(0)
    options_of_model = {"norm": NORMS["BatchNorm"], "width": 8, "stem": "small", "recipe": Recipe(weight_decay=0.5)}
    model = ImageClassifier(num_classes=10, in_channels=1, **options_of_model)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_train_batches=3,
        limit_val_batches=0,
        default_root_dir=folder,
        logger=False,
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(model, Digits(crop_padding=0, batch_size=batch_size))
    return model


if __name__ == "__main__":
    torch.set_num_threads(1)
    with mock.patch("torch.distributed.fsdp.FullyShardedDataParallel", OnCPU):
        strategy = CPUStrategy(auto_wrap_policy=size_based_auto_wrap_policy, state_dict_type="full")
        run(sys.argv[1], 32, strategy=strategy, devices=2, sync_batchnorm=True, plugins=[SyncNorms()])
