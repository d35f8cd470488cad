"""Batch normalization: each channel over the whole batch (Ioffe and Szegedy, 2015, arXiv 1502.03167)."""

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from src.norms.functional import (
    Statistics,
    broadcast_along,
    check_dtypes,
    dense,
    follow,
    is_recomputing,
    normalize_by,
    standardize,
)
from src.norms.leaf import leaf
from src.norms.padding import ReadsPaddingMask


class BatchNorm(_BatchNorm):
    """Normalizes each channel of `(N, C, *)` with the mean and variance over N and *, for any number of dimensions.

        y = (x - mean) / sqrt(var + eps) * weight + bias

    In training the statistics are the batch's, and `running_mean` and `running_var` (unbiased) follow them by
    `running += momentum * (batch - running)`, or as their plain average if momentum is None. In eval the running
    ones are used; without them (`track_running_stats=False`), the batch's. Arguments, state dict and errors are those
    of `torch.nn.BatchNorm2d`: the base class brings parameters and buffers, so that whatever looks for a batch norm
    (weight initialization, `swa_utils.update_bn`, `state_dict`) finds one; all the arithmetic is here. Unlike torch's,
    it does not count a batch again when activation checkpointing repeats it: a forward pass inside of a backward pass
    moves no statistics.

    Raises:
        ValueError: one value per channel in training; its variance would be 0. Or eps is not positive.
        RuntimeError: the input's channels are not `num_features`, or its type is not the parameters'.
    """

    channel_dim = 1

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"expected at least 2D input (got {input.ndim}D input)")

    def mask_for(self, x: Tensor) -> Tensor | None:
        return None

    @leaf
    def forward(self, input: Tensor) -> Tensor:
        self._check_input_dim(input)
        use_batch = self.training or (self.running_mean is None and self.running_var is None)
        follows = self.training and self.track_running_stats
        input = dense(input)
        self._check(input, use_batch, read_running=follows or not self.training)

        weight = broadcast_along(self.weight, input, self.channel_dim)
        bias = broadcast_along(self.bias, input, self.channel_dim)
        if use_batch:
            dims = tuple(dim for dim in range(input.ndim) if dim != self.channel_dim % input.ndim)
            y, batch = standardize(input, dims, self.eps, weight, bias, self.mask_for(input))
            if follows:
                self._follow(batch)
        else:
            assert self.running_mean is not None
            assert self.running_var is not None
            mean = broadcast_along(self.running_mean, input, self.channel_dim)
            var = broadcast_along(self.running_var, input, self.channel_dim)
            y = normalize_by(Statistics(mean, var), input, self.eps, weight, bias)
        return y

    def _check(self, x: Tensor, use_batch: bool, read_running: bool) -> None:
        """Raise torch's errors."""
        num_channels = x.shape[self.channel_dim]
        if use_batch and x.numel() == num_channels:
            raise ValueError(f"Expected more than 1 value per channel when training, got input size {x.size()}")
        if use_batch and self.eps <= 0:
            raise ValueError(f"batch_norm eps must be positive during training, but got {self.eps}")
        if self.eps < 0:
            raise ValueError(f"batch_norm eps must be non-negative, but got {self.eps}")
        running = {"running_mean": self.running_mean, "running_var": self.running_var} if read_running else {}
        for name, vector in {**running, "weight": self.weight, "bias": self.bias}.items():
            if vector is not None and vector.numel() != num_channels:
                raise RuntimeError(f"{name} should contain {num_channels} elements not {vector.numel()}")
        check_dtypes(x, self.weight, self.bias, *running.values())

    def _follow(self, batch: Statistics) -> None:
        factor: float | Tensor = 0.0 if self.momentum is None else self.momentum
        if self.num_batches_tracked is not None:
            if not is_recomputing():
                self.num_batches_tracked.add_(1)
            if self.momentum is None:
                factor = 1 / self.num_batches_tracked.to(batch.var.dtype)
        count = batch.num_values
        if isinstance(count, Tensor):
            factor = factor * (count.flatten() > 0).to(batch.var.dtype)  # a batch of padding alone moves nothing
        elif count == 0:
            return
        assert batch.mean is not None
        follow(self.running_mean, batch.mean.flatten(), factor)
        follow(self.running_var, batch.unbiased_var().flatten(), factor)


class BatchNorm1d(BatchNorm, nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d` from scratch: `(N, C)` or `(N, C, L)`, over N and L."""

    _check_input_dim = nn.BatchNorm1d._check_input_dim


class BatchNorm2d(BatchNorm, nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` from scratch: `(N, C, H, W)`, over N, H and W."""

    _check_input_dim = nn.BatchNorm2d._check_input_dim


class BatchNorm3d(BatchNorm, nn.BatchNorm3d):
    """`torch.nn.BatchNorm3d` from scratch: `(N, C, D, H, W)`, over N, D, H and W."""

    _check_input_dim = nn.BatchNorm3d._check_input_dim


class TokenBatchNorm(ReadsPaddingMask, BatchNorm):
    """Batch normalization of `(..., D)`: each feature over all positions of all samples, padding left out."""

    channel_dim = -1
