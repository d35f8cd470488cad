"""Merge the statistics of several processes into those of all their values."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from src.norms.formula.statistics import Statistics


def merge(own: Statistics, group: ProcessGroup) -> tuple[Statistics, Tensor]:
    """The statistics of all processes' values, and the merged mean minus this process's own mean.

    The forward pass needs one collective: each process sends one row of count, mean and sum of squared deviations. The
    backward pass needs another one, of twice the mean's size. Every process has to take part, even if it has no values.
    The rows are merged by the formula of Chan, Golub and LeVeque (1979), which has no cancellation. They are merged in
    the order of the ranks, so that all processes get the same bits. Each mean is rounded to its type before it is sent.
    This error is visible if a mean is 1e4 times the spread or more, as in torch's layer.
    """
    mean, var, count = _Merge.apply(own.whole_mean(), own.var, own.num_values, group)
    return Statistics(mean, var, count), mean - own.mean


def sum_over(group: ProcessGroup, x: Tensor) -> Tensor:
    """The sum of `x` over all processes, in each of them. Its gradient is the sum of the processes' gradients."""
    total: Tensor = _Sum.apply(x, group)
    return total


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: ProcessGroup) -> Tensor:
        ctx.group = group
        total = x.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        return sum_over(ctx.group, dy), None


class _Merge(torch.autograd.Function):
    """Mean, variance and count of all processes' values, from those of each process."""

    @staticmethod
    def forward(
        ctx: Any, mean: Tensor, var: Tensor, count: Tensor | int, group: ProcessGroup
    ) -> tuple[Tensor, Tensor, Tensor]:
        count = count.to(mean.dtype).view(1) if isinstance(count, Tensor) else mean.new_full((1,), count)
        rows = _gather(torch.cat((mean.flatten(), (var * count).flatten(), count)), group)
        means, squares, counts = rows.split((mean.numel(), mean.numel(), 1), dim=1)
        total = counts.sum(0).clamp(min=1)
        merged = (means * (counts / total)).sum(0)
        merged_var = (squares + counts * (means - merged).square()).sum(0) / total
        merged, merged_var = merged.view_as(mean), merged_var.view_as(var)
        ctx.save_for_backward(mean, merged, count / total)
        ctx.group = group
        total = counts.sum(0).reshape([1] * mean.ndim)
        ctx.mark_non_differentiable(total)
        return merged, merged_var, total

    @staticmethod
    def backward(ctx: Any, dmean: Tensor, dvar: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        mean, merged, share = ctx.saved_tensors
        dmean, dvar = sum_over(ctx.group, torch.stack((dmean, dvar)))
        return share * (dmean + 2 * (mean - merged) * dvar), share * dvar, None, None


def _gather(row: Tensor, group: ProcessGroup) -> Tensor:
    """The rows of all processes, `(ranks, len(row))`."""
    rows = row.new_zeros(dist.get_world_size(group), len(row))
    if dist.get_backend(group) == "gloo":  # gloo does not gather tensors on a GPU
        rows[dist.get_rank(group)] = row
        dist.all_reduce(rows, group=group)
    else:
        # Newer versions of torch have the first name, and deprecate the second.
        name = "all_gather_single" if hasattr(dist, "all_gather_single") else "all_gather_into_tensor"
        getattr(dist, name)(rows, row, group=group)
    return rows
