"""Samples that are numbers already: scaled once, at the start, by statistics of the training split."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from src.data.base import ClassificationData
from src.data.dataset import BatchDataset
from src.data.scaling import ScalingName, fit_to_values
from src.data.split import split_off_missing


class ArrayDataset(BatchDataset):
    """An array of samples in memory.

    Args:
        inputs: (N, *) of any numbers; batches are float32.
        labels: (N,) int64.
    """

    def __init__(self, inputs: np.ndarray, labels: np.ndarray):
        self.inputs = torch.from_numpy(inputs).float()
        self.labels = np.asarray(labels, dtype=np.int64)

    def take(self, rows: np.ndarray) -> "ArrayDataset":
        """The dataset of these rows of this one."""
        return ArrayDataset(self.inputs[rows].numpy(), self.labels[rows])

    def batch(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        """(B, *) float32 and (B,) int64."""
        return self.inputs[indices], torch.from_numpy(self.labels[indices])


class ArrayData(ClassificationData):
    """Arrays in batches: float32 (B, C, *) and labels (B,). A subclass gives its arrays in `load`.

    Args:
        class_names: the classes in the order of their labels.
        shape: of a sample, (C, *).
        scaling: "standardize" each of the C features or channels, "minmax" to 0..1, or "none" for the numbers as they
            are.
        batch_size: samples per batch and process.
        num_workers: loader processes per process.
        root: folder where datasets and caches live.
        split_seed: fixes which samples are split off for validation and test.
        val_fraction: share of the training samples that is held out for validation.
        test_fraction: share held out for the test, where the data has no test split of its own.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        shape: tuple[int, ...],
        scaling: ScalingName,
        batch_size: int,
        num_workers: int,
        root: str,
        split_seed: int,
        val_fraction: float,
        test_fraction: float = 0.0,
    ):
        super().__init__(
            class_names, batch_size, num_workers, root, split_seed, val_fraction, test_fraction=test_fraction
        )
        self.shape = shape
        self.scaling: ScalingName = scaling

    @property
    def in_features(self) -> int:
        """Numbers in a sample."""
        return math.prod(self.shape)

    def load(self) -> dict[str, ArrayDataset]:
        """The dataset "train" and, where the source has them, "val", "test" and "predict"."""
        raise NotImplementedError

    def make_datasets(self) -> dict[str, ArrayDataset]:
        """All splits, scaled as the training split asks."""
        datasets = split_off_missing(self.load(), self.val_fraction, self.test_fraction, self.split_seed)
        datasets.setdefault("predict", datasets["test"])
        scaling = fit_to_values(self.scaling, datasets["train"].inputs)
        return {
            split: ArrayDataset(scaling(dataset.inputs).numpy(), dataset.labels) for split, dataset in datasets.items()
        }
