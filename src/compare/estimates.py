"""Means over seeds, and differences between arms that share their seeds."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy import stats

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds.

    The interval is Student's t: it contains the true mean with 95% confidence if the values of the seeds are
    independent draws from a normal distribution. A few seeds cannot show whether this is so. The interval is wide
    because the spread is estimated from the same few values. Each interval is for one comparison: in 20 comparisons
    without any true difference, one interval is expected to exclude 0.
    """

    mean: float
    std: float | None
    """The sample standard deviation, which divides by n - 1; None for one value."""

    num_values: int

    @property
    def margin(self) -> float | None:
        """Half the width of the interval; None for one value, which says nothing about the spread."""
        if self.std is None:
            return None
        quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, self.num_values - 1))
        return quantile * self.std / math.sqrt(self.num_values)

    @property
    def interval(self) -> tuple[float, float] | None:
        return None if self.margin is None else (self.mean - self.margin, self.mean + self.margin)


def estimate(values: Sequence[float]) -> Estimate | None:
    """The mean and the spread of values; None if there are none."""
    if not values:
        return None
    std = statistics.stdev(values) if len(values) > 1 else None
    return Estimate(statistics.fmean(values), std, len(values))


def paired_difference(values: Mapping[int, float], baseline: Mapping[int, float]) -> Estimate | None:
    """The mean of `values - baseline` over the seeds that both have.

    With the same seed, two arms start from the same weights and see the same samples in the same order with the same
    augmentation, so that the effect of the seed cancels out. None if the arms share no seed.
    """
    return estimate([values[seed] - baseline[seed] for seed in sorted(values.keys() & baseline.keys())])
