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

    The interval is Student's t: the mean lies in it with 95% confidence, if the values of the seeds are independent
    draws of a normal distribution. With few seeds that cannot be checked, and the interval is wide because it does not
    assume to know the spread. Each interval is for itself: of 20 differences that are none, one is expected outside.
    """

    mean: float
    std: float | None
    """Of the sample, n - 1; None for one value."""

    num_values: int

    @property
    def margin(self) -> float | None:
        """Half the interval's width; None for one value, which says nothing of the spread."""
        if self.std is None:
            return None
        quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, self.num_values - 1))
        return quantile * self.std / math.sqrt(self.num_values)

    @property
    def interval(self) -> tuple[float, float] | None:
        return None if self.margin is None else (self.mean - self.margin, self.mean + self.margin)


def estimate(values: Sequence[float]) -> Estimate | None:
    """None where there are no values."""
    if not values:
        return None
    std = statistics.stdev(values) if len(values) > 1 else None
    return Estimate(statistics.fmean(values), std, len(values))


def paired_difference(values: Mapping[int, float], baseline: Mapping[int, float]) -> Estimate | None:
    """The mean of `values - baseline` over the seeds that both have.

    Both arms of a seed share their first weights, their samples' order and augmentation, so that what a seed does to
    both cancels out. None where no seed is shared.
    """
    return estimate([values[seed] - baseline[seed] for seed in sorted(values.keys() & baseline.keys())])
