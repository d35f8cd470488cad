"""From bytes, or numbers in units of their own, to those that a model sees, by statistics of the training split."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

ScalingName = Literal["standardize", "minmax", "none"]

# Images counted at a time: bounds the memory, also when the pixels lie in a memory-mapped file.
CHUNK = 4096


def value_counts(pixels: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """How often each byte comes in each channel of the given rows: (N, C, H, W) -> (C, 256).

    All statistics follow from the counts, exactly and whatever the number of images.
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
    """`(images - shift) / scale`, with one number per channel."""

    shift: Tensor  # (1, C, 1, 1); as many ones as a sample has dimensions
    scale: Tensor  # as shift

    def __call__(self, images: Tensor) -> Tensor:
        """To float32: (N, C, *) -> (N, C, *)."""
        # In place, on the copy that the conversion makes: a third of the time of two more tensors.
        return images.to(torch.float32, copy=True).sub_(self.shift).div_(self.scale)

    def to(self, device: torch.device) -> "Scaling":
        """The same scaling with its numbers on `device`."""
        return Scaling(self.shift.to(device), self.scale.to(device))


def fit_scaling(name: ScalingName, counts: np.ndarray) -> Scaling:
    """Choose the shift and the scale from the training split's `value_counts`, (C, 256).

    - "standardize": mean 0 and standard deviation 1 in each channel.
    - "minmax": the smallest byte of all channels to 0, the largest to 1.
    - "none": 0 to 255 as they are.

    A channel with a single value gets the scale 1: dividing by its zero spread would give NaN.
    """
    num_channels = len(counts)
    values = np.arange(256)
    if name == "standardize":
        share = counts / counts.sum(axis=1, keepdims=True)
        shift = share @ values  # (C,)
        scale = np.sqrt((share * (values - shift[:, None]) ** 2).sum(axis=1))  # (C,)
    elif name == "minmax":
        present = np.flatnonzero(counts.sum(axis=0))
        shift = np.full(num_channels, float(present[0]))
        scale = np.full(num_channels, float(present[-1] - present[0]))
    else:
        shift, scale = np.zeros(num_channels), np.ones(num_channels)
    scale = np.where(scale == 0, 1.0, scale)
    as_map = [torch.tensor(numbers, dtype=torch.float32).reshape(1, num_channels, 1, 1) for numbers in (shift, scale)]
    return Scaling(*as_map)


def fit_to_values(name: ScalingName, values: Tensor) -> Scaling:
    """As `fit_scaling`, from numbers of any size, (N, C, *); "minmax" takes each of the C to 0..1 for itself."""
    dims = [dim for dim in range(values.ndim) if dim != 1]
    if name == "standardize":
        variance, shift = torch.var_mean(values.double(), dims, correction=0, keepdim=True)
        scale = variance.sqrt()
    elif name == "minmax":
        shift = values.amin(dims, keepdim=True)
        scale = values.amax(dims, keepdim=True) - shift
    else:
        shift = torch.zeros([values.shape[1] if dim == 1 else 1 for dim in range(values.ndim)])
        scale = torch.ones_like(shift)
    return Scaling(shift.float(), torch.where(scale == 0, 1.0, scale).float())
