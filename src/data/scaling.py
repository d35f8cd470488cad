"""Scaling of images and arrays for a model, by statistics of the training split."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

ScalingName = Literal["standardize", "minmax", "none"]

# Images counted at a time; it bounds the memory, since the pixels may lie in a memory-mapped file.
CHUNK = 4096


def value_counts(pixels: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """How often each byte occurs in each channel of the given rows: (N, C, H, W) -> (C, 256).

    All statistics follow exactly from the counts, for any number of images.
    """
    num_channels = pixels.shape[1]
    counts = np.zeros((num_channels, 256), dtype=np.int64)
    for start in range(0, len(rows), CHUNK):
        chunk = pixels[rows[start : start + CHUNK]]
        for channel in range(num_channels):
            counts[channel] += np.bincount(chunk[:, channel].ravel(), minlength=256)
    return counts


@dataclass(frozen=True)
class Scaling:
    """`(inputs - shift) / scale`, with one number for each channel or column, or one for all of them."""

    shift: Tensor  # broadcasts to (N, C, *)
    scale: Tensor  # broadcasts to (N, C, *)

    @classmethod
    def of(cls, shift: Tensor, scale: Tensor) -> "Scaling":
        """As float32; a scale of 0, the spread of a constant channel, becomes 1: dividing by 0 would give NaN."""
        return cls(shift.float(), torch.where(scale == 0, 1.0, scale).float())

    def __call__(self, inputs: Tensor) -> Tensor:
        """To float32: (N, C, *) -> (N, C, *)."""
        # In place on the copy that the conversion makes: a third of the time that two more tensors take.
        return inputs.to(torch.float32, copy=True).sub_(self.shift).div_(self.scale)

    def to(self, device: torch.device) -> "Scaling":
        """The same scaling with its numbers on `device`."""
        return Scaling(self.shift.to(device), self.scale.to(device))


IDENTITY = Scaling(torch.zeros(1), torch.ones(1))


def fit_scaling(name: ScalingName, counts: np.ndarray) -> Scaling:
    """The scaling of images, from the training split's `value_counts`, (C, 256).

    - "standardize": mean 0 and standard deviation 1 in each channel.
    - "minmax": the smallest byte of all channels to 0, the largest to 1.
    - "none": 0 to 255 as they are.
    """
    if name == "none":
        return IDENTITY
    values = np.arange(256)
    if name == "standardize":
        share = counts / counts.sum(axis=1, keepdims=True)
        shift = share @ values  # (C,)
        scale = np.sqrt((share * (values - shift[:, None]) ** 2).sum(axis=1))  # (C,)
    else:
        present = np.flatnonzero(counts.sum(axis=0))
        shift, scale = present[:1], present[-1:] - present[:1]  # (1,)
    return Scaling.of(*(torch.from_numpy(numbers).reshape(1, -1, 1, 1) for numbers in (shift, scale)))


def fit_to_values(name: ScalingName, values: Tensor) -> Scaling:
    """Like `fit_scaling`, for numbers of any size, (N, C, *); "minmax" scales each channel to 0..1 by itself."""
    if name == "none":
        return IDENTITY
    dims = [dim for dim in range(values.ndim) if dim != 1]
    if name == "standardize":
        variance, mean = torch.var_mean(values.double(), dims, correction=0, keepdim=True)
        return Scaling.of(mean, variance.sqrt())
    low, high = values.amin(dims, keepdim=True), values.amax(dims, keepdim=True)
    return Scaling.of(low, high - low)
