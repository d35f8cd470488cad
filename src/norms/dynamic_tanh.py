"""Dynamic tanh (Zhu et al., 2025, arXiv 2503.10622)."""

import torch
from torch import Tensor, nn

from src.norms.elementwise import Elementwise
from src.norms.family import NormFamily, NormSite


class DynamicTanh(Elementwise):
    """`y = tanh(alpha * x) * weight + bias`, with one learned alpha and a weight and a bias per feature.

    Args:
        num_features: features C of `(N, C, *)`, or D of `(..., D)`.
        channel_dim: 1 for `(N, C, *)`, -1 for `(..., D)`.
        alpha: the first value of alpha.
        affine: learn weight and bias.
    """

    def __init__(self, num_features: int, channel_dim: int = -1, alpha: float = 0.5, affine: bool = True) -> None:
        super().__init__(num_features, channel_dim, affine, alpha=alpha)

    def function(self, x: Tensor, alpha: Tensor) -> Tensor:  # type: ignore[override]
        return torch.tanh(alpha * x)


class DynamicTanhFamily(NormFamily):
    """tanh(alpha * x) with a learned alpha, instead of a norm (arXiv 2503.10622).

    Args:
        alpha: the first value of alpha in a new layer.
    """

    kind = "DynamicTanh"
    base = on_maps = on_tokens = DynamicTanh

    def __init__(self, alpha: float = 0.5) -> None:
        self.alpha = alpha

    def layer_at(self, site: NormSite) -> nn.Module:
        return DynamicTanh(site.num_features, site.channel_dim, self.alpha, site.affine)
