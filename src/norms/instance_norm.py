"""Instance normalization (Ulyanov, Vedaldi and Lempitsky, 2016, arXiv 1607.08022)."""

import math
import warnings

import torch
from torch import Tensor, nn
from torch.nn.modules.instancenorm import _InstanceNorm

from src.norms.family import Layer, NormFamily, NormSite, given_options, positive
from src.norms.formula.axes import axes_within
from src.norms.formula.processes import sum_over
from src.norms.formula.statistics import Statistics
from src.norms.inputs import check_at_least_2d, check_dtypes
from src.norms.leaf import leaf
from src.norms.normalize import normalize
from src.norms.padding import ReadsPaddingMask
from src.norms.running import follow_one
from src.norms.sync import Synchronizable


class InstanceNorm(Synchronizable, _InstanceNorm):
    """Normalizes each channel of each sample of `(N, C, *)` over *, for any number of dimensions.

        y = (x - mean) / sqrt(var + eps) * weight + bias

    Arguments, state dict and errors are those of `torch.nn.InstanceNorm2d`. With `track_running_stats=True`, training
    moves running statistics towards the average over the samples, and eval uses them. Otherwise training and eval are
    the same. If the layer is `synchronized`, the average is over the samples of all processes.

    Raises:
        ValueError: the statistics of the samples are used, and a channel has a single position, whose variance would be
            0; or a layer with weights gets an input that does not have `num_features` channels.
        RuntimeError: the input's type is not the parameters' type; or a layer with running statistics and without
            weights gets an input that does not have `num_features` channels.
    """

    channel_dim = 1
    _check_input_dim = check_at_least_2d

    def _get_no_batch_dim(self) -> int:
        return 0  # number of dimensions of an input without a batch; 0: such an input is not accepted

    def mask_for(self, x: Tensor) -> Tensor | None:
        return None

    @leaf
    def forward(self, input: Tensor) -> Tensor:
        self._check_input_dim(input)
        if input.ndim == self._get_no_batch_dim():
            self._check_channels(input, 0)
            return self._normalize(input.unsqueeze(0)).squeeze(0)
        self._check_channels(input, self.channel_dim % input.ndim)
        return self._normalize(input)

    def _normalize(self, input: Tensor) -> Tensor:
        input = input.contiguous()
        axes = axes_within(self.channel_dim, input.ndim, first=1)
        if self.training or not self.track_running_stats or self.running_mean is None or self.running_var is None:
            if math.prod([input.shape[dim] for dim in axes.dims]) == 1:
                raise ValueError(f"Expected more than 1 spatial element when training, got input size {input.size()}")
            self._check(input)
            y, sample = normalize(input, axes, self.eps, self.weight, self.bias, self.mask_for(input))
            if input.numel() or self.peers() is not None:
                self._follow(sample)
        else:
            self._check(input)
            running = Statistics(self.running_mean, self.running_var)
            over_batch = axes_within(self.channel_dim, input.ndim)
            y = normalize(input, over_batch, self.eps, self.weight, self.bias, given=running)[0]
        return y

    def _check_channels(self, x: Tensor, dim: int) -> None:
        num_channels = x.shape[dim]
        if num_channels == self.num_features:
            return
        if self.affine:
            raise ValueError(
                f"expected input's size at dim={dim} to match num_features ({self.num_features}), but got: "
                f"{num_channels}."
            )
        warnings.warn(
            f"input's size at dim={dim} does not match num_features. You can silence this warning by not passing in "
            "num_features, which is not used because affine=False",
            stacklevel=3,
        )

    def _check(self, x: Tensor) -> None:
        check_dtypes(x, self.weight, self.bias)
        num_samples, num_channels = x.shape[0], x.shape[self.channel_dim]
        if self.running_mean is not None and num_channels != self.num_features:
            raise RuntimeError(
                f"running_mean should contain {num_samples * num_channels} elements not "
                f"{num_samples * self.num_features}"
            )

    @torch.no_grad()
    def _follow(self, sample: Statistics) -> None:
        if self.running_mean is None or self.running_var is None:
            return
        mean = sample.whole_mean()
        assert mean is not None
        momentum = 0.0 if self.momentum is None else self.momentum
        dim = self.channel_dim % mean.ndim + 1
        values = torch.stack((mean, sample.unbiased_var())).movedim(dim, -1).flatten(1, -2)  # (2, N, C)
        peers = self.peers()
        if peers is None:
            mean, var = values.mean(1).unbind()
        else:
            # A row of ones counts the samples.
            total = sum_over(peers, torch.cat((values, torch.ones_like(values[:1]))).sum(1))
            if not total[2, 0]:
                return
            mean, var = (total[:2] / total[2]).unbind()
        follow_one(self.running_mean, mean, momentum)
        follow_one(self.running_var, var, momentum)


class InstanceNorm1d(InstanceNorm, nn.InstanceNorm1d):
    """`torch.nn.InstanceNorm1d` from scratch: `(N, C, L)` or `(C, L)`, over L."""

    _check_input_dim = nn.InstanceNorm1d._check_input_dim
    _get_no_batch_dim = nn.InstanceNorm1d._get_no_batch_dim


class InstanceNorm2d(InstanceNorm, nn.InstanceNorm2d):
    """`torch.nn.InstanceNorm2d` from scratch: `(N, C, H, W)` or `(C, H, W)`, over H and W."""

    _check_input_dim = nn.InstanceNorm2d._check_input_dim
    _get_no_batch_dim = nn.InstanceNorm2d._get_no_batch_dim


class InstanceNorm3d(InstanceNorm, nn.InstanceNorm3d):
    """`torch.nn.InstanceNorm3d` from scratch: `(N, C, D, H, W)` or `(C, D, H, W)`, over D, H and W."""

    _check_input_dim = nn.InstanceNorm3d._check_input_dim
    _get_no_batch_dim = nn.InstanceNorm3d._get_no_batch_dim


class TokenInstanceNorm(ReadsPaddingMask, InstanceNorm):
    """Instance normalization of `(B, ..., D)`: each feature over the positions of its sample, without padding."""

    channel_dim = -1


class InstanceNormFamily(NormFamily):
    """Each channel of each sample over its positions (arXiv 1607.08022).

    Args:
        eps: added to the variance.
    """

    kind = "InstanceNorm"
    base = _InstanceNorm
    base_channel_dim = 1
    needs_positions = True
    on_maps: Layer = InstanceNorm
    on_tokens: Layer = TokenInstanceNorm
    drop_ins: tuple[Layer, ...] = (InstanceNorm1d, InstanceNorm2d, InstanceNorm3d)

    def __init__(self, eps: float | None = None) -> None:
        self.eps = positive("eps", eps)
        self.overrides = given_options(eps=eps)

    def layer_at(self, site: NormSite) -> nn.Module:
        return self.layer_class(site)(site.num_features, affine=site.affine, **self.options_at(site))
