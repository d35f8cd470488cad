"""Batch normalization: each channel over the whole batch (Ioffe and Szegedy, 2015, arXiv 1502.03167)."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.nn.modules.batchnorm import _BatchNorm

from src.norms.family import Layer, NormFamily, NormSite, given_options, positive
from src.norms.formula.axes import axes_within
from src.norms.formula.statistics import Statistics
from src.norms.inputs import check_at_least_2d, check_dtypes, dense
from src.norms.leaf import leaf
from src.norms.normalize import normalize
from src.norms.padding import ReadsPaddingMask
from src.norms.running import follow, is_recomputing
from src.norms.sync import OfTokens, Synchronizable, synchronize


class BatchNorm(Synchronizable, _BatchNorm):
    """Normalizes each channel of `(N, C, *)` by its mean and variance over N and *, for any number of dimensions.

        y = (x - mean) / sqrt(var + eps) * weight + bias

    In training the layer uses the statistics of the batch. It also moves the running statistics by
    `running += momentum * (batch - running)`. `running_var` follows the unbiased variance. With `momentum=None` the
    running statistics are plain averages over all batches. In eval the layer uses the running statistics. If it has
    none (`track_running_stats=False`), it uses the statistics of the batch.

    Arguments, state dict and errors are those of `torch.nn.BatchNorm2d`. torch's base class holds the parameters and
    buffers, so that weight initialization, `swa_utils.update_bn` and other tools recognize a batch norm. The
    computation is in this class. One thing differs from torch: a forward pass inside a backward pass moves no
    statistics. So a batch counts once where activation checkpointing repeats the forward pass.

    If the layer is `synchronized`, the processes of `process_group` (None: all) share the statistics of all their
    values in training. Outputs, input gradients and running statistics are those of one process with the whole batch.

    Raises:
        ValueError: the statistics of the batch are used, and eps is not positive or a channel has a single value, whose
            variance would be 0; or eps is negative.
        RuntimeError: the input does not have `num_features` channels, or its type is not the parameters' type.
    """

    channel_dim = 1
    _check_input_dim = check_at_least_2d

    def mask_for(self, x: Tensor) -> Tensor | None:
        return None

    @leaf
    def forward(self, input: Tensor) -> Tensor:
        self._check_input_dim(input)
        weight, bias, running_mean, running_var = self.weight, self.bias, self.running_mean, self.running_var
        use_batch = self.training or (running_mean is None and running_var is None)
        follows = self.training and self.track_running_stats
        input = dense(input)
        peers = self.peers()
        if self.training and not follows:
            self._check(input, use_batch, peers, weight, bias)
        else:
            self._check(input, use_batch, peers, weight, bias, running_mean, running_var)

        axes = axes_within(self.channel_dim, input.ndim)
        if use_batch:
            if peers is not None:
                axes = axes._replace(process_group=peers)
            y, batch = normalize(input, axes, self.eps, weight, bias, self.mask_for(input))
            if follows:
                self._follow(batch)
            return y
        assert running_mean is not None
        assert running_var is not None
        return normalize(input, axes, self.eps, weight, bias, given=Statistics(running_mean, running_var))[0]

    def _check(
        self,
        x: Tensor,
        use_batch: bool,
        peers: ProcessGroup | None,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor | None = None,
        running_var: Tensor | None = None,
    ) -> None:
        """Raise torch's errors."""
        num_channels = x.shape[self.channel_dim]
        if use_batch and peers is None and x.numel() == num_channels and self._num_values(x) == 1:
            raise ValueError(f"Expected more than 1 value per channel when training, got input size {x.size()}")
        if use_batch and self.eps <= 0:
            raise ValueError(f"batch_norm eps must be positive during training, but got {self.eps}")
        if self.eps < 0:
            raise ValueError(f"batch_norm eps must be non-negative, but got {self.eps}")
        vectors = (running_mean, running_var, weight, bias)
        for name, vector in zip(("running_mean", "running_var", "weight", "bias"), vectors, strict=True):
            if vector is not None and vector.numel() != num_channels:
                raise RuntimeError(f"{name} should contain {num_channels} elements not {vector.numel()}")
        check_dtypes(x, *vectors)

    def _num_values(self, x: Tensor) -> int:
        """The number of values in each channel, which may be above 1 where there is no channel."""
        channel = self.channel_dim % x.ndim
        return math.prod(size for dim, size in enumerate(x.shape) if dim != channel)

    @torch.no_grad()
    def _follow(self, batch: Statistics) -> None:
        running_mean, running_var, num_batches_tracked = self.running_mean, self.running_var, self.num_batches_tracked
        factor: float | Tensor = 0.0 if self.momentum is None else self.momentum
        if num_batches_tracked is not None:
            if not is_recomputing():
                num_batches_tracked.add_(1)
            if self.momentum is None:
                factor = 1 / num_batches_tracked.to(batch.var.dtype)
        count = batch.num_values
        if isinstance(count, Tensor):
            factor = factor * (count.flatten() > 0).to(batch.var.dtype)  # a batch that is all padding moves nothing
        elif count == 0:
            return
        follow(running_mean, running_var, batch, factor)


class BatchNorm1d(BatchNorm, nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d` from scratch: `(N, C)` or `(N, C, L)`, over N and L."""

    _check_input_dim = nn.BatchNorm1d._check_input_dim


class BatchNorm2d(BatchNorm, nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` from scratch: `(N, C, H, W)`, over N, H and W."""

    _check_input_dim = nn.BatchNorm2d._check_input_dim


class BatchNorm3d(BatchNorm, nn.BatchNorm3d):
    """`torch.nn.BatchNorm3d` from scratch: `(N, C, D, H, W)`, over N, D, H and W."""

    _check_input_dim = nn.BatchNorm3d._check_input_dim


class TokenBatchNorm(ReadsPaddingMask, OfTokens, BatchNorm):
    """Batch normalization of `(..., D)`: each feature over all positions of all samples, without padding."""

    channel_dim = -1


class SyncBatchNorm(BatchNorm):
    """`torch.nn.SyncBatchNorm` from scratch, which runs on CPU, too: `(N, C, *)`, over N and * of all processes.

    The processes may have different numbers of samples and positions, or none, but they must make the same calls. The
    gradients of weight and bias are those of the process's own samples; DistributedDataParallel averages them.

    Args:
        process_group: the processes that share their statistics; None: all. The other arguments are BatchNorm's.
    """

    synchronized = True

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: ProcessGroup | None = None,
        device: Any = None,
        dtype: Any = None,
        **bias: bool,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, **bias)
        self.process_group = process_group

    @classmethod
    def convert_sync_batchnorm(cls, module: nn.Module, process_group: ProcessGroup | None = None) -> nn.Module:
        """Synchronize all batch norms of `module`, ours and torch's, in place, and return `module`."""
        synchronize(module, process_group, cls)
        return module


class BatchNormFamily(NormFamily):
    """Each channel over the batch and its positions; running statistics in eval (arXiv 1502.03167).

    Args:
        eps: added to the variance.
        momentum: the share of a new batch in the running statistics.
        masked: on text, leave padding out of the statistics (the default); false counts padding, to show its effect.
        track_running_stats: keep running statistics (the default); without them eval uses the statistics of the batch.
    """

    kind = "BatchNorm"
    base = _BatchNorm
    base_channel_dim = 1
    on_maps: Layer = BatchNorm
    on_tokens: Layer = TokenBatchNorm
    drop_ins: tuple[Layer, ...] = (BatchNorm1d, BatchNorm2d, BatchNorm3d, SyncBatchNorm)

    def __init__(
        self,
        eps: float | None = None,
        momentum: float | None = None,
        masked: bool | None = None,
        track_running_stats: bool | None = None,
    ) -> None:
        self.eps, self.momentum = positive("eps", eps), positive("momentum", momentum)
        self.masked, self.track_running_stats = masked, track_running_stats
        self.overrides = given_options(
            eps=eps, momentum=momentum, masked=masked, track_running_stats=track_running_stats
        )

    def set_options(self, layer: nn.Module) -> None:
        super().set_options(layer)
        if self.track_running_stats is False:
            for name in ("running_mean", "running_var", "num_batches_tracked"):
                layer.register_buffer(name, None)

    def layer_at(self, site: NormSite) -> nn.Module:
        options = {"momentum": site.momentum, **self.options_at(site)}
        masked = options.pop("masked", None)
        layer = self.layer_class(site)(site.num_features, affine=site.affine, **options)
        if isinstance(layer, ReadsPaddingMask) and masked is not None:
            layer.masked = masked
        return layer
