"""No normalization at all: what the others are measured against."""

from torch import nn


class Identity(nn.Identity):
    """`y = x`; it remembers what stood in its place, so that a norm can be put back.

    Args:
        num_features: features C of `(N, C, *)`, or D of `(..., D)`.
        channel_dim: 1 for `(N, C, *)`, -1 for `(..., D)`.
    """

    def __init__(self, num_features: int, channel_dim: int = -1) -> None:
        super().__init__()
        self.num_features = num_features
        self.channel_dim = channel_dim

    def extra_repr(self) -> str:
        return f"{self.num_features}, channel_dim={self.channel_dim}"
