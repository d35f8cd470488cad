"""No normalization: the layer with which norms are compared."""

from torch import nn

from src.norms.family import NormFamily, NormSite


class Identity(nn.Identity):
    """`y = x`. It keeps the sizes of the norm that it replaces, so that another norm can replace it later.

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


class IdentityFamily(NormFamily):
    """No norm at all, to compare the others with."""

    kind = "Identity"
    base = on_maps = on_tokens = Identity

    def layer_at(self, site: NormSite) -> nn.Module:
        return Identity(site.num_features, site.channel_dim)
