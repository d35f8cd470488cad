"""Datasets that give a whole batch at once."""

from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset


class BatchDataset(Dataset[tuple[Any, Tensor]]):
    """A dataset whose item is a batch: `dataset[[3, 1, 4]]` gives `(inputs, labels)` of three samples.

    One indexing operation makes the batch, instead of one call and one copy per sample and a collation.
    """

    labels: np.ndarray  # (N,) int64, -1 where unknown
    lengths: np.ndarray | None = None  # (N,) tokens per sample, if samples differ in it

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: list[int]) -> tuple[Any, Tensor]:
        # Lightning's distributed sampler would split the batches among processes once more, or give single samples.
        if not isinstance(indices, list):
            raise TypeError(
                f"Got the index {indices!r}, expected a list of indices from src.data.sampler.BatchSampler. "
                "It shares the samples among processes by itself: set Trainer(use_distributed_sampler=False)."
            )
        return self.batch(np.asarray(indices, dtype=np.int64))

    def batch(self, indices: np.ndarray) -> tuple[Any, Tensor]:
        """The inputs and labels, (B,) int64, of the samples `indices`, (B,)."""
        raise NotImplementedError
