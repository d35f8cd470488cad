"""Running statistics, and how a batch moves them."""

import torch
from torch import Tensor

from src.norms.formula.statistics import Statistics
from src.norms.kernels import cpu
from src.norms.kernels.setting import setting
from src.norms.normalize import formula_needed


def follow(running_mean: Tensor | None, running_var: Tensor | None, batch: Statistics, factor: float | Tensor) -> None:
    """Move running mean and variance, `(C,)`, towards a batch's, in place: `running += factor * (batch - running)`."""
    by_kernel = not formula_needed() and setting() == "auto" and not is_recomputing()
    if by_kernel and cpu.follow(running_mean, running_var, batch, factor):
        return
    mean = batch.whole_mean()
    assert mean is not None
    if running_mean is not None:
        follow_one(running_mean, mean.flatten(), factor)
    if running_var is not None:
        follow_one(running_var, batch.unbiased_var().flatten(), factor)


def follow_one(running: Tensor, batch: Tensor, factor: float | Tensor) -> None:
    """Move a running statistic towards a batch's, in place: `running += factor * (batch - running)`.

    If activation checkpointing repeats a forward pass, this computes the value but does not write it. It still computes
    because selective checkpointing counts operations.
    """
    moved = running.to(batch.dtype).lerp(batch, factor)
    if not is_recomputing():
        running.copy_(moved)


def is_recomputing() -> bool:
    """Whether this forward pass runs inside a backward pass, where activation checkpointing repeats it.

    The first pass counted the batch. Under torch.compile the answer is no, since torch.compile repeats no side effects.
    """
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1
