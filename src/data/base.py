"""What all datasets share: splits, loaders and each process's share of the samples."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from src.data.dataset import BatchDataset
from src.data.errors import DataError
from src.data.sampler import BatchSampler


def as_is(batch: Any) -> Any:
    """The dataset's batch; torch's default collation would turn the tuple into a list."""
    return batch


def global_seed() -> int:
    """What `seed_everything` was given, or 0."""
    return int(os.environ.get("PL_GLOBAL_SEED", 0))


def require_at_least(minimum: int, **values: int) -> None:
    """Raise a DataError that names the first of `values` that is below `minimum`."""
    for name, value in values.items():
        if value < minimum:
            raise DataError(f"{name}={value}: expected {minimum} or more. Set --data.{name}.")


def require_fractions(val_fraction: float, test_fraction: float) -> None:
    """Raise a DataError unless both splits and the training split get a part."""
    if not 0 < val_fraction < 1:
        raise DataError(
            f"val_fraction={val_fraction}: expected a number between 0 and 1, the share of the training samples "
            "that is held out for validation. Set --data.val_fraction."
        )
    if not 0 <= test_fraction < 1 - val_fraction:
        raise DataError(
            f"val_fraction={val_fraction} and test_fraction={test_fraction}: expected two shares that leave "
            "some samples for training. Lower --data.val_fraction or --data.test_fraction."
        )


class ClassificationData(LightningDataModule):
    """Labelled samples in batches `(inputs, labels)`; `labels` is (B,) int64, -1 where unknown.

    A subclass makes the datasets "train", "val", "test" and "predict" in `make_datasets`. Batches of the same
    seed (`seed_everything`) and epoch are the same. In training each process sees the same number of batches;
    in evaluation the processes see each sample once between them.

    Args:
        class_names: the classes in the order of their labels.
        batch_size: samples per batch and process.
        num_workers: loader processes per process; 0 loads in the training process itself.
        root: folder where datasets and caches live.
        split_seed: fixes which samples are split off for validation and test.
        val_fraction: share of the training samples that is held out for validation.
        test_fraction: share held out for the test, where the data has no test split of its own.
    """

    modality: ClassVar[str | None] = None
    """What the inputs are, as in a model's `modalities`: images, texts, tables or volumes. None: any model fits."""

    bucketing = True
    """Whether samples of similar length share a batch, where samples differ in it."""

    def __init__(
        self,
        class_names: Sequence[str],
        batch_size: int,
        num_workers: int,
        root: str,
        split_seed: int,
        val_fraction: float,
        test_fraction: float = 0.0,
    ):
        super().__init__()
        require_at_least(1, batch_size=batch_size)
        require_at_least(0, num_workers=num_workers, split_seed=split_seed)
        require_fractions(val_fraction, test_fraction)
        self._class_names = list(class_names)
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.root = Path(root)
        self.split_seed = split_seed
        self.val_fraction = val_fraction
        self.test_fraction = test_fraction
        self.datasets: Mapping[str, BatchDataset] = {}

    @property
    def class_names(self) -> list[str]:
        """The classes in the order of their labels."""
        return self._class_names

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self._class_names)

    @property
    def predict_names(self) -> list[str]:
        """What to call each sample that is predicted: its number, or its file."""
        return [str(index) for index in range(len(self.datasets["predict"]))]

    def make_datasets(self) -> Mapping[str, BatchDataset]:
        """The datasets "train", "val", "test" and "predict"."""
        raise NotImplementedError

    def setup(self, stage: str) -> None:
        """Load all splits, once: what is fitted on the training split serves every stage."""
        if not self.datasets:
            self.datasets = self.make_datasets()

    def _loader(self, split: str) -> DataLoader[Any]:
        dataset = self.datasets[split]
        training = split == "train"
        trainer = self.trainer
        shares = (trainer.distributed_sampler_kwargs if trainer else None) or {"rank": 0, "num_replicas": 1}
        sampler = BatchSampler(
            len(dataset),
            self.batch_size,
            shuffle=training,
            # Overfitting a few batches means the same few in each epoch.
            reshuffle=not (trainer and trainer.overfit_batches),  # type: ignore[attr-defined]
            seed=global_seed(),
            drop_last=training,
            rank=shares["rank"],
            world_size=shares["num_replicas"],
            # Predictions come in the order of the inputs.
            lengths=dataset.lengths if self.bucketing and split != "predict" else None,
        )
        return DataLoader(
            dataset,
            batch_size=None,
            sampler=sampler,
            collate_fn=as_is,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
        )

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled batches of the training split, all full."""
        return self._loader("train")

    def val_dataloader(self) -> DataLoader[Any]:
        """Each validation sample once."""
        return self._loader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        """Each test sample once."""
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader[Any]:
        """Each sample to predict once, in their order; rank r of N takes every N-th from the r-th on."""
        return self._loader("predict")

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of the data: the meaning of the labels."""
        return {"class_names": self.class_names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Compare the data with that of a checkpoint.

        Raises:
            DataError: its labels mean other classes.
        """
        if state_dict["class_names"] != self.class_names:
            raise DataError(
                f"The checkpoint was trained on the classes {', '.join(state_dict['class_names'])}, and the data "
                f"has {', '.join(self.class_names)}. Give the data of the training run, or train on this data."
            )

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Seed torch's generators with (seed, epoch, batch, rank), just before a training batch is augmented.

        So the randomness of a step, augmentation and dropout, does not depend on what was drawn before it: a run
        that goes on from a checkpoint draws what it would have drawn, and every norm sees the same batches.
        """
        trainer = self.trainer
        if trainer and trainer.training:
            step = (global_seed(), trainer.current_epoch, trainer.fit_loop.batch_idx + 1, trainer.global_rank)
            seed = int(np.random.SeedSequence(step).generate_state(1, np.uint64)[0])
            # Not torch.manual_seed, which goes through all kinds of devices: 2 ms for those that are not there.
            torch.default_generator.manual_seed(seed)
            device = trainer.strategy.root_device
            if device.type != "cpu":
                torch.get_device_module(device).manual_seed(seed)
        return batch

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> tuple[Any, torch.Tensor]:
        """The batch as a tuple; pinning memory turns tuples into lists."""
        inputs, labels = batch
        return inputs, labels
