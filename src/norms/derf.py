"""Dynamic erf (Chen et al., 2025, arXiv 2512.10938)."""

import torch
from torch import Tensor, nn

from src.norms.elementwise import Elementwise
from src.norms.family import NormFamily, NormSite


class Derf(Elementwise):
    """`y = erf(alpha * x + shift) * weight + bias`, with a learned alpha and shift.

    Args:
        num_features: features C of `(N, C, *)`, or D of `(..., D)`.
        channel_dim: 1 for `(N, C, *)`, -1 for `(..., D)`.
        alpha: the first value of alpha.
        shift: the first value of shift.
        affine: learn weight and bias.
    """

    def __init__(
        self, num_features: int, channel_dim: int = -1, alpha: float = 0.5, shift: float = 0.0, affine: bool = True
    ) -> None:
        super().__init__(num_features, channel_dim, affine, alpha=alpha, shift=shift)

    def function(self, x: Tensor, alpha: Tensor, shift: Tensor) -> Tensor:  # type: ignore[override]
        return torch.erf(alpha * x + shift)


class DerfFamily(NormFamily):
    """erf(alpha * x + shift) with a learned alpha and shift, instead of a norm (arXiv 2512.10938).

    Args:
        alpha: the first value of alpha in a new layer.
        shift: the first value of shift in a new layer.
    """

    kind = "Derf"
    base = on_maps = on_tokens = Derf

    def __init__(self, alpha: float = 0.5, shift: float = 0.0) -> None:
        self.alpha, self.shift = alpha, shift

    def layer_at(self, site: NormSite) -> nn.Module:
        return Derf(site.num_features, site.channel_dim, self.alpha, self.shift, site.affine)
