"""Properties of the sampler, for several numbers of samples, batch sizes and ranks."""

from typing import Any

import numpy as np
import pytest

from benchmarks.padding import padding_share
from src.data.errors import DataError
from src.data.sampler import BatchSampler

SHAPES = [(100, 8, 1), (100, 8, 3), (64, 8, 2), (7, 16, 1), (7, 16, 2), (1000, 16, 4)]


def lengths_of(num_samples: int) -> np.ndarray:
    return np.random.default_rng(0).lognormal(4, 0.8, num_samples).astype(np.int64).clip(2, 256)


def ranks(num_samples: int, batch_size: int, world_size: int, **options: Any) -> list[BatchSampler]:
    return [
        BatchSampler(num_samples, batch_size, rank=rank, world_size=world_size, **options) for rank in range(world_size)
    ]


@pytest.mark.parametrize("bucketed", [False, True])
@pytest.mark.parametrize(("num_samples", "batch_size", "world_size"), SHAPES)
def test_training_gives_every_rank_equally_many_full_batches(
    num_samples: int, batch_size: int, world_size: int, bucketed: bool
) -> None:
    lengths = lengths_of(num_samples) if bucketed else None
    samplers = ranks(num_samples, batch_size, world_size, shuffle=True, drop_last=True, lengths=lengths)
    batches = [list(sampler) for sampler in samplers]
    assert {len(rank_batches) for rank_batches in batches} == {len(samplers[0])}
    assert len(samplers[0]) == max(1, num_samples // (batch_size * world_size))
    assert {len(batch) for rank_batches in batches for batch in rank_batches} == {samplers[0].batch_size}
    seen = [index for rank_batches in batches for batch in rank_batches for index in batch]
    assert len(seen) == len(set(seen))


@pytest.mark.parametrize("bucketed", [False, True])
@pytest.mark.parametrize(("num_samples", "batch_size", "world_size"), [*SHAPES, (3, 4, 3)])
def test_evaluation_sees_every_sample_once_over_all_ranks(
    num_samples: int, batch_size: int, world_size: int, bucketed: bool
) -> None:
    lengths = lengths_of(num_samples) if bucketed else None
    samplers = ranks(num_samples, batch_size, world_size, lengths=lengths)
    assert [len(sampler) for sampler in samplers] == [len(list(sampler)) for sampler in samplers]
    seen = [index for sampler in samplers for batch in sampler for index in batch]
    assert sorted(seen) == list(range(num_samples))


@pytest.mark.parametrize("bucketed", [False, True])
def test_n_ranks_see_the_batches_of_one_process(bucketed: bool) -> None:
    options: dict[str, Any] = {"shuffle": True, "drop_last": True, "lengths": lengths_of(500) if bucketed else None}
    one = list(BatchSampler(500, 16, **options))
    four = zip(*ranks(500, 4, 4, **options), strict=True)
    assert [set(batch) for batch in one] == [set().union(*shares) for shares in four]


@pytest.mark.parametrize("bucketed", [False, True])
def test_order_follows_from_seed_and_epoch(bucketed: bool) -> None:
    lengths = lengths_of(300) if bucketed else None

    def batches(seed: int, epoch: int, reshuffle: bool = True) -> list[list[int]]:
        sampler = BatchSampler(300, 8, shuffle=True, reshuffle=reshuffle, seed=seed, drop_last=True, lengths=lengths)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert batches(seed=1, epoch=2) == batches(seed=1, epoch=2)
    assert batches(seed=1, epoch=2) != batches(seed=1, epoch=3)
    assert batches(seed=1, epoch=2) != batches(seed=2, epoch=1)
    assert batches(seed=1, epoch=2, reshuffle=False) == batches(seed=1, epoch=3, reshuffle=False)


def test_prediction_keeps_the_order() -> None:
    assert list(BatchSampler(5, 2)) == [[0, 1], [2, 3], [4]]


# Number of samples, median length and max_length of R8, R52 and 20 Newsgroups. Their lengths are about lognormal.
COLLECTIONS = [(5000, 69, 192), (6000, 76, 192), (10000, 175, 512)]


@pytest.mark.parametrize("world_size", [1, 4])
@pytest.mark.parametrize("batch_size", [32, 64])
@pytest.mark.parametrize(("num_samples", "median", "max_length"), COLLECTIONS)
def test_buckets_leave_little_padding_and_still_mix(
    num_samples: int, median: int, max_length: int, batch_size: int, world_size: int
) -> None:
    rng = np.random.default_rng(0)
    lengths = rng.lognormal(np.log(median), 0.85, num_samples).astype(np.int64).clip(2, max_length)

    def padding(**options: Any) -> float:
        samplers = ranks(num_samples, batch_size, world_size, lengths=lengths, **options)
        return padding_share(lengths, [batch for sampler in samplers for batch in sampler])

    assert padding(shuffle=True, drop_last=True) < 0.1
    assert padding() < 0.1
    in_order = [range(start, start + batch_size) for start in range(0, num_samples - batch_size, batch_size)]
    assert padding_share(lengths, in_order) > 0.3
    # With sorted batches, the correlation of mean length and position in the epoch would be above 0.8.
    sampler = BatchSampler(num_samples, batch_size, shuffle=True, drop_last=True, lengths=lengths)
    means = [lengths[batch].mean() for batch in sampler]
    assert abs(np.corrcoef(np.arange(len(means)), means)[0, 1]) < 0.4


def test_padding_share_by_hand() -> None:
    assert padding_share(np.array([1, 4, 3]), [[0, 1], [2]]) == pytest.approx(3 / 11)


@pytest.mark.parametrize(("drop_last", "split"), [(True, "training"), (False, "evaluation")])
def test_fewer_samples_than_ranks(drop_last: bool, split: str) -> None:
    with pytest.raises(DataError) as error:
        BatchSampler(3, 8, drop_last=drop_last, world_size=4)
    assert str(error.value) == (
        f"The {split} split has 3 samples for 4 processes: expected at least one for each. Take fewer devices or "
        "more data."
    )
