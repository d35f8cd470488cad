"""Mean and variance over some axes, and the deviations from the mean.

Three rules keep the numbers accurate. float16 and bfloat16 are computed in float32. The variance is computed from the
deviations, in a second pass: E[x^2] - E[x]^2 loses its digits to cancellation if the mean is large against the spread.
For the same reason the mean is subtracted before the scale is applied.

If a mean is far from zero, its rounding error is large against the spread. The mean of the deviations is this error,
the exact minus the rounded mean. The code calls it `rest`. The rest corrects the variance (the two-pass algorithm of
Chan, Golub and LeVeque, 1983). It is subtracted where the bias is added, so that it costs no pass over the input.

The output does not depend on the point from which deviations are taken. So the rounded mean counts as a constant in
every derivative. The statistics depend on x through the rest and the variance.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Statistics(NamedTuple):
    """Mean and variance. In the result of `deviations` the reduced dimensions have size 1."""

    mean: Tensor | None  # None: taken about zero
    var: Tensor  # biased, divided by the count; about zero the mean square; given statistics as they are
    num_values: int | Tensor = 0  # values in each mean; 0: the statistics were given
    rest: Tensor | None = None  # the exact minus the rounded mean; None: not computed

    def whole_mean(self) -> Tensor | None:
        """The mean plus its rest."""
        return self.mean if self.mean is None or self.rest is None else self.mean + self.rest

    def unbiased_var(self) -> Tensor:
        """The variance divided by count - 1, which running statistics track."""
        if isinstance(self.num_values, Tensor):
            return self.var * self.num_values / (self.num_values - 1).clamp(min=1)
        return self.var * (self.num_values / (self.num_values - 1))


def computing_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type in which a tensor of `dtype` is computed: float32 for the half types, else the type itself."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def mean_over(x: Tensor, dims: tuple[int, ...], mask: Tensor | None = None) -> Tensor:
    """The mean over `dims`, which keep size 1. It is 0 where `x` is empty or the mask leaves no value.

    Args:
        x: any floating-point tensor.
        dims: the dimensions that are reduced.
        mask: True where a value counts; broadcasts to `x`, with size 1 in the kept dimensions. None: all count.
    """
    if mask is None:
        return x.mean(dims, keepdim=True) if x.numel() else x.sum(dims, keepdim=True)
    return x.masked_fill(~mask, 0).sum(dims, keepdim=True) / mask.sum(dims, keepdim=True).clamp(min=1)


def deviations(
    x: Tensor, dims: tuple[int, ...], mask: Tensor | None = None, about_zero: bool = False
) -> tuple[Tensor, Statistics]:
    """The deviations of `x` from its rounded mean over `dims`, in `computing_dtype`, and the statistics.

    Args:
        x, dims, mask: as in `mean_over`.
        about_zero: take `x` itself as the deviations, and its mean square as the variance.
    """
    x = x.to(computing_dtype(x.dtype))
    count: int | Tensor = 1
    if mask is None:
        for dim in dims:
            count *= x.shape[dim]
    else:
        count = mask.sum(dims, keepdim=True)
    if about_zero:
        return x, Statistics(None, mean_over(x.square(), dims, mask), count)
    mean = mean_over(x.detach(), dims, mask)
    deviation = x - mean
    rest = mean_over(deviation, dims, mask)
    var = mean_over(deviation.square(), dims, mask) - rest.square()
    var = var - var.detach().clamp(max=0)  # rounding may give less than 0; without a branch, for derivatives
    return deviation, Statistics(mean, var, count, rest)
