"""Kernels for GPU, in Triton: choose the one that fits an input, and call it.

Triton is imported only when the first kernel is needed: the import takes time, and some machines have no Triton.
"""

import logging
from contextlib import AbstractContextManager, nullcontext
from functools import cache, lru_cache
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from src.norms.formula.axes import Axes
from src.norms.formula.statistics import Statistics
from src.norms.kernels.arrangement import Arrangement, arrangement_of

if TYPE_CHECKING:
    from src.norms.kernels.triton_lines import Lines
    from src.norms.kernels.triton_tiles import Block, Tile

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
INTERPRETED_PROCESSORS = 4

log = logging.getLogger(__name__)


class GPUKernel(NamedTuple):
    """Kernels with their sizes. They take only tensors like the ones for which they were chosen."""

    arrangement: Arrangement
    about_zero: bool
    given: bool
    has_weight: bool
    has_bias: bool

    def forward(
        self, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, given: Statistics | None
    ) -> tuple[Tensor, Statistics]:
        """The output, and the statistics: the given ones, or the mean (None about zero) and the biased variance."""
        from src.norms.kernels import triton_lines, triton_tiles

        tile, block, _, lines = self._ways(x)
        y = torch.empty_like(x)
        with _current(x.device):
            if given is not None:
                triton_lines.write(x, y, weight, bias, given.mean, given.var, None, eps, lines)
                return y, given
            var = torch.empty(self.arrangement.statistics_shape, dtype=torch.float32, device=x.device)
            mean = None if self.about_zero else torch.empty_like(var)
            if block is not None:
                triton_tiles.forward(x, y, weight, bias, mean, var, eps, tile, block)
            else:
                rest = triton_lines.moments(x, mean, var, lines, _processors(x.device))
                triton_lines.write(x, y, weight, bias, mean, var, rest, eps, lines)
        return y, Statistics(mean, var, x.numel() // var.numel())

    def backward(
        self,
        dy: Tensor,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        found: Statistics,
        eps: float,
        needed: tuple[bool, ...],
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The gradients of input, weight and bias that are `needed`."""
        from src.norms.kernels import triton_lines, triton_tiles

        tile, _, block, lines = self._ways(x)
        mean, var = found.mean, found.var
        dx = torch.empty_like(x) if needed[0] else None
        has, processors = (self.has_weight, self.has_bias), _processors(x.device)
        with _current(x.device):
            if self.given or block is None:
                of = triton_lines.backward(dy, x, dx, weight, mean, var, eps, self.given, has, lines, processors)
            else:
                of = triton_tiles.backward(dy, x, dx, weight, mean, var, eps, has, tile, block, processors)
        dweight, dbias = (
            flat.view(parameter.shape).to(parameter.dtype)
            if is_needed and flat is not None and parameter is not None
            else None
            for flat, parameter, is_needed in zip(of, (weight, bias), needed[1:], strict=False)
        )
        return dx, dweight, dbias

    def _ways(self, x: Tensor) -> "tuple[Tile, Block | None, Block | None, Lines]":
        return _ways(self.arrangement, self.has_weight or self.has_bias, _processors(x.device))


@lru_cache(maxsize=4096)
def _ways(
    arrangement: Arrangement, has_parameters: bool, processors: int
) -> "tuple[Tile, Block | None, Block | None, Lines]":
    """The values of a mean as a tile, the blocks of a program in forward and backward, and the values as lines."""
    from src.norms.kernels.triton_lines import lines_of
    from src.norms.kernels.triton_tiles import BACKWARD_LIMIT, FORWARD_LIMIT, tile_of

    tile = tile_of(arrangement, has_parameters)
    forward, backward = (tile.block(limit, processors) for limit in (FORWARD_LIMIT, BACKWARD_LIMIT))
    return tile, forward, backward, lines_of(arrangement, has_parameters)


@cache
def _processors(device: torch.device) -> int:
    if device.type != "cuda":
        return INTERPRETED_PROCESSORS
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def _current(device: torch.device) -> AbstractContextManager[object]:
    """A context in which Triton launches kernels on `device`; by default it uses the current device."""
    if device.type != "cuda" or device.index == torch.cuda.current_device():
        return nullcontext()
    return torch.cuda.device(device)


@cache
def _available(device: torch.device) -> bool:
    """Whether a first kernel runs on the device. If not, a log line says why, and the formula is used.

    Raises:
        ValueError: the device is the CPU, and Triton's interpreter is off.
    """
    try:
        from src.norms.kernels.triton_tiles import INTERPRETED

        if device.type == "cuda":
            x = torch.zeros(1, 16, device=device)
            GPUKernel(Arrangement("runs", (1, 16, 1, 1), (1, 1)), False, False, False, False).forward(
                x, None, None, 1.0, None
            )
    except Exception as error:  # no Triton, no C compiler for its launcher, a GPU that Triton does not support
        log.warning("Norms run on torch's operations, slower than they could: %s: %s", type(error).__name__, error)
        return False
    if device.type != "cuda" and not INTERPRETED.value:
        raise ValueError(
            f"LIGHTNING_NORMS_KERNELS=triton: expected a tensor on a GPU, got one on {device}; set TRITON_INTERPRET=1 "
            "to run Triton's kernels there, or LIGHTNING_NORMS_KERNELS=auto"
        )
    return True


def kernel_for(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, axes: Axes, given: Statistics | None
) -> GPUKernel | None:
    """The kernel for the statistics of `x` over `axes`, or None if no kernel fits and the formula is needed."""
    if x.dtype not in DTYPES or x.device.type not in ("cuda", "cpu"):
        return None
    arrangement = arrangement_of(x, weight, bias, axes, given)
    if arrangement is None or arrangement.kernel == "groups" or not _available(x.device):
        return None
    return GPUKernel(arrangement, axes.about_zero, given is not None, weight is not None, bias is not None)
