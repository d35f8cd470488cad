"""Dynamic tanh, a stand-in for normalization that takes no statistics (Zhu et al., 2025, arXiv 2503.10622)."""

import torch
from torch import Tensor, nn

from src.norms.family import NormFamily, NormSite
from src.norms.formula.axes import Axes, shape_along
from src.norms.formula.statistics import computing_dtype
from src.norms.leaf import leaf


class DynamicTanh(nn.Module):
    """`y = tanh(alpha * x) * weight + bias`, with one learned alpha and a weight and bias per feature.

    Args:
        num_features: features C of `(N, C, *)`, or D of `(..., D)`.
        channel_dim: 1 for `(N, C, *)`, -1 for `(..., D)`.
        alpha: the first value of alpha.
        affine: learn weight and bias.
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(self, num_features: int, channel_dim: int = -1, alpha: float = 0.5, affine: bool = True) -> None:
        super().__init__()
        self.num_features = num_features
        self.channel_dim = channel_dim
        self.initial_alpha = alpha
        self.alpha = nn.Parameter(torch.empty(1))
        if affine:
            self.weight = nn.Parameter(torch.empty(num_features))
            self.bias = nn.Parameter(torch.empty(num_features))
        else:
            self.register_parameter("weight", None)
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.alpha, self.initial_alpha)
        if self.weight is not None:
            nn.init.ones_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    @leaf
    def forward(self, input: Tensor) -> Tensor:
        dtype = computing_dtype(input.dtype)
        y = torch.tanh(self.alpha.to(dtype) * input.to(dtype))
        axes = Axes((), parameter_shape=shape_along(self.channel_dim, input.ndim))
        weight, bias = axes.spread(self.weight), axes.spread(self.bias)
        y = y if weight is None else y * weight
        y = y if bias is None else y + bias
        return y.to(input.dtype)

    def extra_repr(self) -> str:
        return f"{self.num_features}, channel_dim={self.channel_dim}, alpha={self.initial_alpha}"


class DynamicTanhFamily(NormFamily):
    """tanh(alpha * x) with a learned alpha, instead of a norm (arXiv 2503.10622).

    Args:
        alpha: the first value of alpha.
    """

    kind = "DynamicTanh"
    base = on_maps = on_tokens = DynamicTanh

    def __init__(self, alpha: float = 0.5) -> None:
        self.alpha = alpha

    def layer_at(self, site: NormSite) -> nn.Module:
        return DynamicTanh(site.num_features, site.channel_dim, self.alpha, site.affine)
