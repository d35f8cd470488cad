"""The norms in extended precision, written anew: values, and the scale of each value's rounding error.

The scale of a value is the sum of the sizes of the terms that it is computed from. A sound computation in a type of
precision u is off by a few u times the scale. The mean of values far from zero is an exception: it is rounded by u
times the largest value, and a computation that corrects this mistake is off by u times it, as a term of the scale.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.longdouble]]
Found = dict[str, tuple[Array, Array]]  # a value and its scale


@dataclass(frozen=True)
class Norm:
    """A norm: its kind, which is the name of a family, and where its channel is."""

    kind: str
    channel_dim: int
    num_dims: int = 1  # trailing dimensions that a layer or RMS norm reduces
    num_groups: int = 1
    unbatched: bool = False

    def view(self, shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """The shape in which the input is viewed, the dimensions that are reduced, and the shape of the parameters."""
        if self.unbatched:
            shape = (1, *shape)
        rank = len(shape)
        channel = self.channel_dim % rank
        along = tuple(size if dim == channel else 1 for dim, size in enumerate(shape))
        others = tuple(dim for dim in range(rank) if dim != channel)
        match self.kind:
            case "BatchNorm":
                return shape, others, along
            case "InstanceNorm":
                return shape, others[1:], along
            case "GroupNorm":
                each = shape[channel] // self.num_groups
                split = (self.num_groups, each)
                seen = (*shape[:channel], *split, *shape[channel + 1 :])
                parameters = (*[1] * channel, *split, *[1] * (rank - channel - 1))
                return seen, tuple(range(channel + 1, rank + 1)), parameters
        if self.channel_dim == 1:
            return shape, (channel,), along
        first = rank - self.num_dims
        return shape, tuple(range(first, rank)), tuple(1 if dim < first else size for dim, size in enumerate(shape))


def exact(
    norm: Norm,
    x: Array,
    dy: Array,
    weight: Array | None,
    bias: Array | None,
    given: tuple[Array, Array] | None,
    eps: float,
    unit: float,
    corrected: bool,
) -> Found:
    """Output and gradients, and the statistics of the input unless they are given.

    Args:
        unit: the precision of the computation.
        corrected: gradients are corrected for the rounding of the mean. For an input in a half type they are not.
    """
    shape = x.shape
    seen, dims, spread = norm.view(shape)
    x, dy = x.reshape(seen), dy.reshape(seen)
    one = np.longdouble(1)
    w = one if weight is None else weight.reshape(spread)
    b = one * 0 if bias is None else bias.reshape(spread)
    about_zero = norm.kind == "RMSNorm"

    def mean(values: Array) -> Array:
        return values.mean(dims, keepdims=True) if values.size else values.sum(dims, keepdims=True)

    def largest(values: Array) -> Array:
        return np.abs(values).max(dims, keepdims=True, initial=0)

    if given is not None:
        center, var = (each.reshape(spread) for each in given)
        deviation = x - center
    elif about_zero:
        center, deviation, var = one * 0, x, mean(x**2)
    else:
        near = mean(x).astype(np.float64)  # the difference of two near values of 53 bits is exact
        rest = mean(x - near)
        center, deviation = near + rest, x - near - rest
        var = mean(deviation**2)
    r = 1 / np.sqrt(var + eps)
    z = deviation * r
    z_scale = np.abs(z) if given is not None else np.broadcast_to(largest(z), z.shape)
    if not about_zero:
        z_scale = z_scale + unit * largest(x) * r
    y_scale = z_scale * np.abs(w) + np.abs(b)
    if not corrected and given is None and not about_zero:
        z_scale = z_scale + largest(x) * r
    g = dy * w * r
    mean_gz, mean_gz_scale = mean(g * z), mean(np.abs(g) * z_scale)
    dx, dx_scale = g, np.abs(g)
    if given is None:
        dx = dx - z * mean_gz
        dx_scale = dx_scale + 2 * z_scale * mean_gz_scale
        if not about_zero:
            dx, dx_scale = dx - mean(g), dx_scale + mean(np.abs(g))

    across = tuple(dim for dim, size in enumerate(spread) if size == 1)  # dimensions of one parameter

    def total(values: Array, parameter: Array) -> Array:
        return np.broadcast_to(values, seen).sum(across).reshape(parameter.shape)

    found = {
        "output": ((z * w + b).reshape(shape), y_scale.reshape(shape)),
        "gradient of the input": (dx.reshape(shape), dx_scale.reshape(shape)),
    }
    if weight is not None:
        found["gradient of weight"] = total(dy * z, weight), total(np.abs(dy) * z_scale, weight)
    if bias is not None:
        found["gradient of bias"] = total(dy, bias), total(np.abs(dy), bias)
    if given is None and not about_zero:
        count = x.size / max(var.size, 1)
        size = largest(x)
        if x.size and count > 1:
            unbiased = var * count / (count - 1)
            for name, value, scale in (("mean", center, size), ("var", unbiased, unbiased + unit * size**2)):
                averages = (each.mean(across).reshape(-1) for each in (value, scale))
                found[name] = next(averages), next(averages)
    return found
