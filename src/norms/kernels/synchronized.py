"""Two kernels of one process; between them the statistics of all processes are merged."""

from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from src.norms.formula.axes import Axes
from src.norms.formula.processes import merge, sum_over
from src.norms.formula.statistics import Statistics
from src.norms.kernels.cpu import CPUKernel
from src.norms.kernels.gpu import GPUKernel


class SynchronizedKernel(NamedTuple):
    """Two kernels of a process that shares statistics with others. The others may use kernels or the formula.

    Args:
        own: computes the statistics of this process's values.
        given: normalizes by the merged statistics.
        group: the processes.
    """

    own: CPUKernel | GPUKernel
    given: CPUKernel | GPUKernel
    group: ProcessGroup

    def forward(
        self, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, _: Statistics | None
    ) -> tuple[Tensor, Statistics]:
        """The output, and the statistics of all processes' values."""
        own = self.own.forward(x, None, None, eps, None)[1]
        found, rest = merge(own, self.group)
        assert own.mean is not None
        # Deviations are taken from this process's own mean: its distance to the merged mean is stored with more digits.
        scale = _scale(found, weight, eps)
        shift = -rest.flatten() * scale if bias is None else bias - rest.flatten() * scale
        by = Statistics(own.mean.flatten(), found.var.flatten())
        weight = torch.ones_like(scale) if weight is None else weight.float()
        return self.given.forward(x, weight, shift, eps, by)[0], found

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
        """The gradients of input, weight and bias that are `needed`. The parameters' gradients are this process's own.

        In dx = g - mean(g) - z * mean(g * z), the first kernel computes g and the sums. The second one computes the
        other two terms, which are a normalization of x with other parameters.
        """
        assert found.mean is not None
        scale = _scale(found, weight, eps)
        by = Statistics(found.mean.flatten(), found.var.flatten())
        one = torch.ones_like(scale) if weight is None else weight.float()
        g, dweight, dbias = self.given.backward(dy, x, one, one, by, eps, (needed[0], True, True))
        assert dweight is not None
        assert dbias is not None
        dx = None
        if g is not None:
            sums = torch.stack((dbias * scale, dweight * scale)).view(2, *found.mean.shape)
            mean_g, mean_g_z = (sum_over(self.group, sums) / found.num_values).flatten(1).neg()
            dx = g.add_(self.given.forward(x, mean_g_z, mean_g, eps, by)[0])
        return (
            dx,
            dweight.to(weight.dtype) if weight is not None and needed[1] else None,
            dbias.to(bias.dtype) if bias is not None and needed[2] else None,
        )


def _scale(found: Statistics, weight: Tensor | None, eps: float) -> Tensor:
    scale = torch.rsqrt(found.var.flatten() + eps)
    return scale if weight is None else scale * weight


def kernel_for(
    backend: ModuleType, x: Tensor, weight: Tensor | None, bias: Tensor | None, axes: Axes
) -> SynchronizedKernel | None:
    """The kernels of `backend` for the statistics of `x` over `axes`, or None if the formula is needed."""
    assert axes.process_group is not None
    alone = axes._replace(process_group=None)
    own = backend.kernel_for(x, None, None, alone, None)
    if own is None:
        return None
    vector = torch.empty(own.arrangement.statistics_shape, device=x.device).flatten()
    weight, bias = (vector if parameter is None else parameter for parameter in (weight, bias))
    given = backend.kernel_for(x, weight, bias, alone, Statistics(vector, vector))
    return None if given is None else SynchronizedKernel(own, given, axes.process_group)
