"""Root mean square normalization (Zhang and Sennrich, 2019, arXiv 1910.07467)."""

import torch
from torch import Tensor, nn

from src.norms.family import Layer, NormFamily, NormSite, given_options, positive
from src.norms.formula.axes import axes_across, last_axes
from src.norms.formula.statistics import computing_dtype
from src.norms.inputs import autocast_to_float32, dense
from src.norms.layer_norm import check_normalized_shape, check_parameter_shapes
from src.norms.leaf import leaf
from src.norms.normalize import normalize


class RMSNorm(nn.RMSNorm):
    """`torch.nn.RMSNorm` from scratch: divides by the root mean square over the last dimensions.

        y = x / sqrt(mean(x^2) + eps) * weight

    Training and eval are the same. `eps=None` is the machine epsilon of the type in which the layer computes: float32
    for the half types, else the input's type.

    Raises:
        ValueError: the input has fewer dimensions than `normalized_shape`.
        RuntimeError: the input's last dimensions are not `normalized_shape`.
    """

    channel_dim = -1

    def _eps_for(self, x: Tensor) -> float:
        return torch.finfo(computing_dtype(x.dtype)).eps if self.eps is None else self.eps

    @leaf
    def forward(self, x: Tensor) -> Tensor:
        x = dense(autocast_to_float32(x))
        rank = len(self.normalized_shape)
        if x.ndim < rank:
            raise ValueError(f"Input tensor must have at least {rank} dimensions, but got {x.ndim}")
        check_normalized_shape(x, self.normalized_shape, any_dims="*")
        weight = self.weight
        check_parameter_shapes(self.normalized_shape, weight=weight)
        y, _ = normalize(x, last_axes(rank, about_zero=True), self._eps_for(x), weight)
        return y


class ChannelRMSNorm(RMSNorm):
    """RMS normalization of `(N, C, *)`: the channels at one position."""

    channel_dim = 1

    @leaf
    def forward(self, x: Tensor) -> Tensor:
        x = dense(autocast_to_float32(x))
        check_normalized_shape(x.movedim(1, -1), self.normalized_shape)
        y, _ = normalize(x, axes_across(1, x.ndim, about_zero=True), self._eps_for(x), self.weight)
        return y


class RMSNormFamily(NormFamily):
    """Like LayerNorm, but the mean is not subtracted (arXiv 1910.07467).

    Args:
        eps: added to the mean square.
    """

    kind = "RMSNorm"
    base = nn.RMSNorm
    on_maps: Layer = ChannelRMSNorm
    on_tokens: Layer = RMSNorm

    def __init__(self, eps: float | None = None) -> None:
        self.eps = positive("eps", eps)
        self.overrides = given_options(eps=eps)

    def layer_at(self, site: NormSite) -> nn.Module:
        return self.layer_class(site)(site.num_features, elementwise_affine=site.affine, **self.options_at(site))
