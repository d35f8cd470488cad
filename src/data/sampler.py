"""The sampler: the order of the samples, buckets by length, and each rank's share."""

from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import SequentialSampler

from src.data.errors import DataError

# Batches of samples of similar length are made within a pool of this many batches. A larger pool means less padding,
# and less randomness in which samples share a batch.
POOL_BATCHES = 50


def bucketed(order: np.ndarray, lengths: np.ndarray, batch_size: int, rng: np.random.Generator) -> np.ndarray:
    """Reorder a shuffled `order` so that each run of `batch_size` samples has similar lengths.

    The order is cut into pools. Each pool is sorted by length and cut into batches. Then the batches of all pools are
    shuffled. A last incomplete batch stays last, so that it does not shift the others.
    """
    pools = np.split(order, np.arange(POOL_BATCHES * batch_size, len(order), POOL_BATCHES * batch_size))
    by_length = np.concatenate([pool[np.argsort(lengths[pool], kind="stable")] for pool in pools])
    num_full = len(by_length) // batch_size
    full = by_length[: num_full * batch_size].reshape(num_full, batch_size)
    return np.concatenate([rng.permutation(full).ravel(), by_length[num_full * batch_size :]])


# It is a SequentialSampler because with `overfit_batches` Lightning replaces any other sampler by its own, which gives
# single samples.
class BatchSampler(SequentialSampler):
    """Batches of sample indices, the same ones for the same seed and epoch.

    Batch k over all ranks is one run of `batch_size * world_size` samples in the epoch's order. Each rank takes every
    world_size-th sample of the run. So N ranks with batches of B get the samples that one process gets with batches of
    N * B.

    - `drop_last=True` (training): each rank gets the same number of full batches. If there are fewer samples than one
      batch over all ranks takes, the batch size shrinks so that there is one batch.
    - `drop_last=False` (evaluation): each sample comes exactly once over all ranks. The last batch of a rank may be
      smaller, and a rank may have one batch less than another.

    Args:
        num_samples: size of the dataset.
        batch_size: samples per batch and rank.
        shuffle: take a random order, else the order of the dataset (or of the lengths).
        reshuffle: take a different random order in each epoch, else the order of epoch 0 in all epochs.
        seed: fixes the order, together with the epoch.
        drop_last: leave out the samples that do not fill a batch on every rank.
        rank: the number of the share that this process takes.
        world_size: the number of shares.
        lengths: (N,) tokens per sample. If given, samples of similar length share a batch.

    Raises:
        DataError: fewer samples than ranks.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        shuffle: bool = False,
        reshuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
        lengths: np.ndarray | torch.Tensor | None = None,
    ):
        super().__init__(range(num_samples))
        if num_samples < world_size:
            # In evaluation too: on a rank without batches Lightning skips the epoch's end, where the other ranks wait.
            raise DataError(
                f"The {'training' if drop_last else 'evaluation'} split has {num_samples} samples for {world_size} "
                "processes: expected at least one for each. Take fewer devices or more data."
            )
        self.num_samples = num_samples
        self.batch_size = min(batch_size, num_samples // world_size) if drop_last else batch_size
        self.shuffle = shuffle
        self.reshuffle = reshuffle
        self.seed = seed
        self.drop_last = drop_last
        self.rank = rank
        self.world_size = world_size
        self.lengths = None if lengths is None else np.asarray(lengths)
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch; Lightning calls this at the start of each epoch."""
        self.epoch = epoch

    def _order(self) -> np.ndarray:
        rng = np.random.default_rng([self.seed, self.epoch if self.reshuffle else 0])
        order = rng.permutation(self.num_samples) if self.shuffle else np.arange(self.num_samples)
        global_batch_size = self.batch_size * self.world_size
        if self.drop_last:
            order = order[: self.num_samples // global_batch_size * global_batch_size]
        if self.lengths is None:
            return order
        if self.shuffle:
            return bucketed(order, self.lengths, global_batch_size, rng)
        return order[np.argsort(self.lengths[order], kind="stable")]

    def __len__(self) -> int:
        if self.drop_last:
            return self.num_samples // (self.batch_size * self.world_size)
        share = len(range(self.rank, self.num_samples, self.world_size))
        return -(-share // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:  # type: ignore[override]  # SequentialSampler yields single indices
        share = self._order()[self.rank :: self.world_size]
        for start in range(0, len(share), self.batch_size):
            yield share[start : start + self.batch_size].tolist()
