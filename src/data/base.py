"""The base class of all datasets: splits, loaders and each process's share of the samples."""

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
from src.data.split import split_off_missing


def as_is(batch: Any) -> Any:
    """Return the batch unchanged: torch's default collation would turn its tuple into a list."""
    return batch


def global_seed() -> int:
    """The seed that `seed_everything` was given, or 0."""
    return int(os.environ.get("PL_GLOBAL_SEED", 0))


def require_at_least(minimum: int, **values: int) -> None:
    """Raise a DataError that names the first of `values` that is below `minimum`."""
    for name, value in values.items():
        if value < minimum:
            raise DataError(f"{name}={value}: expected {minimum} or more. Set --data.{name}.")


def require_fractions(val_fraction: float, test_fraction: float) -> None:
    """Raise a DataError unless `val_fraction` is above 0 and both fractions leave samples for training."""
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

    A kind of data (images, texts, arrays) makes the datasets of all splits in `make_datasets`; a source returns its
    samples in `load`. Its kind gets all options that the source does not fix, as `**options`.

    The same seed (`seed_everything`) and epoch give the same batches. In training each process gets the same number of
    batches. In evaluation each sample goes to one process, once.

    Args:
        class_names: the classes in the order of their labels.
        batch_size: samples per batch and process.
        num_workers: loader processes per process; 0 loads in the training process itself.
        root: folder where datasets and caches live; not used by datasets that ship with scikit-learn.
        split_seed: fixes which samples are split off for validation and, without a test split, for the test.
        val_fraction: share of the training samples (of all, if the data have no splits) that is held out for
            validation, if there is no validation split.
        test_fraction: share of the training samples (of all, if the data have no splits) that is held out for the test,
            if there is no test split.
    """

    modality: ClassVar[str | None] = None
    """The kind of the inputs, as in a model's `modalities`: images, texts, tables or volumes. None: any model fits."""

    bucketing = True
    """Whether samples of similar length share a batch, where samples differ in length."""

    def __init__(
        self,
        class_names: Sequence[str],
        batch_size: int = 64,
        num_workers: int = 0,
        root: str = "data",
        split_seed: int = 0,
        val_fraction: float = 0.15,
        test_fraction: float = 0.15,
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
        """The number of classes."""
        return len(self._class_names)

    @property
    def predict_names(self) -> list[str]:
        """A name for each sample of "predict": its number, or its file."""
        return [str(index) for index in range(len(self.datasets["predict"]))]

    def load(self) -> dict[str, Any]:
        """The samples of "train" and, where the source has them, of "val", "test" and "predict"."""
        raise NotImplementedError

    def load_splits(self) -> dict[str, Any]:
        """The samples of `load`, with "val" and "test" split off "train" if the source lacks them."""
        return split_off_missing(self.load(), self.val_fraction, self.test_fraction, self.split_seed)

    def make_datasets(self) -> Mapping[str, BatchDataset]:
        """The datasets "train", "val" and "test", and "predict" where the source has one."""
        raise NotImplementedError

    def setup(self, stage: str) -> None:
        """Load all splits, once for all stages. Without samples to predict, predict the test split."""
        if not self.datasets:
            datasets = self.make_datasets()
            self.datasets = {"predict": datasets["test"], **datasets}

    def _loader(self, split: str) -> DataLoader[Any]:
        dataset = self.datasets[split]
        training = split == "train"
        trainer = self.trainer
        shares = (trainer.distributed_sampler_kwargs if trainer else None) or {"rank": 0, "num_replicas": 1}
        sampler = BatchSampler(
            len(dataset),
            self.batch_size,
            shuffle=training,
            # With overfit_batches each epoch has the same few batches.
            reshuffle=not (trainer and trainer.overfit_batches),  # type: ignore[attr-defined]
            seed=global_seed(),
            drop_last=training,
            rank=shares["rank"],
            world_size=shares["num_replicas"],
            # Predictions keep the order of the inputs.
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
        """Shuffled batches of the training split, all of them full."""
        return self._loader("train")

    def val_dataloader(self) -> DataLoader[Any]:
        """Each validation sample once."""
        return self._loader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        """Each test sample once."""
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader[Any]:
        """Each sample to predict once, in order; rank r of N takes the samples r, r + N, r + 2N, ..."""
        return self._loader("predict")

    def state_dict(self) -> dict[str, Any]:
        """The data's part of a checkpoint: the classes that the labels stand for."""
        return {"class_names": self.class_names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Check that the data fit the checkpoint that `state_dict` comes from.

        Raises:
            DataError: the checkpoint's labels stand for other classes.
        """
        if state_dict["class_names"] != self.class_names:
            raise DataError(
                f"The checkpoint was trained on the classes {', '.join(state_dict['class_names'])}, and the data "
                f"has {', '.join(self.class_names)}. Give the data of the training run, or train on this data."
            )

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Seed torch's generators with (seed, epoch, batch, rank), just before a training batch is augmented.

        The randomness of a step (augmentation, dropout) then does not depend on earlier draws: a resumed run draws the
        same numbers as an uninterrupted run, and every norm gets the same batches.
        """
        trainer = self.trainer
        if trainer and trainer.training:
            step = (global_seed(), trainer.current_epoch, trainer.fit_loop.batch_idx + 1, trainer.global_rank)
            seed = int(np.random.SeedSequence(step).generate_state(1, np.uint64)[0])
            # Not torch.manual_seed: it seeds all kinds of devices, and the absent ones cost 2 ms.
            torch.default_generator.manual_seed(seed)
            device = trainer.strategy.root_device
            if device.type != "cpu":
                torch.get_device_module(device).manual_seed(seed)
        return batch

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> tuple[Any, torch.Tensor]:
        """The batch as a tuple; pinning memory turns tuples into lists."""
        inputs, labels = batch
        return inputs, labels
