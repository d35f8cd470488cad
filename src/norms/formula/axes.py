"""The axes of a norm: which values of an input share a mean."""

from typing import NamedTuple, overload

from torch import Tensor
from torch.distributed import ProcessGroup


class Axes(NamedTuple):
    """Which values of an input share a mean.

    Args:
        dims: the dimensions that are reduced.
        shape: the shape in which the input is viewed before it is reduced; None: its own.
        parameter_shape: the shape in which weight, bias and given statistics broadcast; None: their own.
        about_zero: take the mean square in place of mean and variance, as RMSNorm does.
        process_group: the processes whose values share the mean, too; None: only this process.
    """

    dims: tuple[int, ...]
    shape: tuple[int, ...] | None = None
    parameter_shape: tuple[int, ...] | None = None
    about_zero: bool = False
    process_group: ProcessGroup | None = None

    @overload
    def spread(self, parameter: Tensor) -> Tensor: ...
    @overload
    def spread(self, parameter: None) -> None: ...
    def spread(self, parameter: Tensor | None) -> Tensor | None:
        """A parameter in the shape that broadcasts: `(C,)` as `(C, 1, 1)` for the channels of a map."""
        if parameter is None or self.parameter_shape is None:
            return parameter
        return parameter.reshape(self.parameter_shape)


def shape_along(dim: int, rank: int) -> tuple[int, ...] | None:
    """The shape in which a vector broadcasts along dimension `dim` of `rank`: `(-1, 1, 1)` for dim 1 of a map."""
    return None if dim in (-1, rank - 1) else (-1, *[1] * (rank - dim - 1))


def last_axes(num_dims: int, about_zero: bool = False) -> Axes:
    """The values along the last `num_dims` dimensions share a mean."""
    return Axes(tuple(range(-num_dims, 0)), about_zero=about_zero)


def axes_within(channel: int, rank: int, first: int = 0) -> Axes:
    """The values of one channel share a mean, over all other dimensions from the `first` on."""
    channel %= rank
    dims = tuple(dim for dim in range(first, rank) if dim != channel)
    return Axes(dims, parameter_shape=shape_along(channel, rank))


def axes_across(channel: int, rank: int, about_zero: bool = False) -> Axes:
    """The channels at one position share a mean."""
    return Axes((channel % rank,), parameter_shape=shape_along(channel, rank), about_zero=about_zero)
