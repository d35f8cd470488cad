"""Arrays of numbers in memory, scaled once, at the start, by statistics of the training split."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from src.data.base import ClassificationData
from src.data.dataset import BatchDataset
from src.data.scaling import ScalingName, fit_to_values


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
        """A dataset of these rows only."""
        return ArrayDataset(self.inputs[rows].numpy(), self.labels[rows])

    def batch(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        """(B, *) float32 and (B,) int64."""
        return self.inputs[indices], torch.from_numpy(self.labels[indices])


class ArrayData(ClassificationData):
    """Arrays in batches: float32 (B, C, *) and labels (B,). A source gives an `ArrayDataset` for each split in `load`.

    Args:
        class_names: the classes in the order of their labels.
        shape: the shape (C, *) of a sample.
        scaling: "standardize" each column or channel, "minmax" each to 0..1, or "none" for the numbers in their own
            units.
        batch_size: samples per batch and process.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        shape: tuple[int, ...],
        scaling: ScalingName = "standardize",
        batch_size: int = 32,
        **options: Any,
    ):
        super().__init__(class_names=class_names, batch_size=batch_size, **options)
        self.shape = shape
        self.scaling: ScalingName = scaling

    @property
    def in_features(self) -> int:
        """The number of values in a sample."""
        return math.prod(self.shape)

    def make_datasets(self) -> dict[str, ArrayDataset]:
        """All splits, scaled by statistics of the training split."""
        datasets = self.load_splits()
        scaling = fit_to_values(self.scaling, datasets["train"].inputs)
        return {
            split: ArrayDataset(scaling(dataset.inputs).numpy(), dataset.labels) for split, dataset in datasets.items()
        }
