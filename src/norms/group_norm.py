"""Group normalization (Wu and He, 2018, arXiv 1803.08494)."""

from collections.abc import Mapping

from torch import Tensor, nn

from src.norms.family import Layer, NormFamily, NormSite, given_options, positive
from src.norms.formula.axes import Axes
from src.norms.inputs import autocast_to_float32, check_dtypes, dense
from src.norms.leaf import leaf
from src.norms.normalize import normalize


class GroupNorm(nn.GroupNorm):
    """`torch.nn.GroupNorm` from scratch: `(N, C, *)`, over a group of C / num_groups channels and * of each sample.

        y = (x - mean) / sqrt(var + eps) * weight + bias

    Training and eval are the same. A sample's output does not depend on other samples.

    Raises:
        ValueError: `num_groups` does not divide `num_channels`; or a group has a single value, whose variance would be
            0, and the batch has one sample.
        RuntimeError: the input does not have `num_channels` channels, or has none, or its type is not the parameters'
            type.
    """

    channel_dim = 1

    @leaf
    def forward(self, input: Tensor) -> Tensor:
        input = dense(autocast_to_float32(input))
        if input.ndim < 2:
            raise RuntimeError(f"Expected at least 2 dimensions for input tensor but received {input.ndim}")
        dim = self.channel_dim % input.ndim
        self._check(input, input.shape[dim])

        before, after = input.shape[:dim], input.shape[dim + 1 :]
        axes = Axes(
            dims=tuple(range(dim + 1, input.ndim + 1)),
            shape=(*before, self.num_groups, input.shape[dim] // self.num_groups, *after),
            parameter_shape=(self.num_groups, -1, *[1] * len(after)),
        )
        y, _ = normalize(input, axes, self.eps, self.weight, self.bias)
        return y

    def _check(self, x: Tensor, num_channels: int) -> None:
        """Raise torch's errors."""
        shape = list(x.shape)
        if x.numel() == self.num_groups and not num_channels % self.num_groups:
            raise ValueError(f"Expected more than 1 value per channel when training, got input size {shape}")
        if num_channels % self.num_groups:
            raise RuntimeError(
                f"Expected number of channels in input to be divisible by num_groups, but got input of shape {shape} "
                f"and num_groups={self.num_groups}"
            )
        if num_channels == 0:
            raise RuntimeError("Expected number of channels to be greater than 0, got 0")
        if self.channel_dim == 1 and 0 in shape[2:]:
            raise RuntimeError("Expected HxW to be greater than 0, got 0")
        for name, vector in {"weight": self.weight, "bias": self.bias}.items():
            if vector is not None and vector.shape != (num_channels,):
                raise RuntimeError(
                    f"Expected {name} to be a vector of size equal to the number of channels in input, but got {name} "
                    f"of shape {list(vector.shape)} and input of shape {shape}"
                )
        check_dtypes(x, self.weight, self.bias)


class TokenGroupNorm(GroupNorm):
    """Group normalization of `(..., D)`: over a group of the features of one position, as in RetNet (arXiv 2307.08621).

    The statistics use one position only, so padding cannot change them.
    """

    channel_dim = -1


DEFAULT_GROUPS = 32


class GroupNormFamily(NormFamily):
    """A group of channels with its positions (arXiv 1803.08494); on tokens, a group of one position's features.

    Args:
        num_groups: number of groups; must divide the channels of each norm in the model. If not given: the number of
            the replaced layer if that is a group norm, else 32.
        eps: added to the variance.
    """

    kind = "GroupNorm"
    base = nn.GroupNorm
    base_channel_dim = 1
    on_maps: Layer = GroupNorm
    on_tokens: Layer = TokenGroupNorm

    def __init__(self, num_groups: int | None = None, eps: float | None = None) -> None:
        self.num_groups, self.eps = positive("num_groups", num_groups), positive("eps", eps)
        self.overrides = given_options(num_groups=num_groups, eps=eps)

    def check(self, sites: Mapping[str, NormSite]) -> None:
        for name, site in sites.items():
            num_groups = self.num_groups or DEFAULT_GROUPS
            if problem := misfit(num_groups, site):
                fitting = (n for n in range(num_groups, 0, -1) if not any(misfit(n, s) for s in sites.values()))
                where = f"layer '{name}'" if name else "this layer"
                raise ValueError(
                    f"{type(self).__name__} does not fit {where}: {problem}; num_groups={next(fitting)} fits every "
                    "norm asked for"
                )

    def layer_at(self, site: NormSite) -> nn.Module:
        options = {"num_groups": DEFAULT_GROUPS, **self.options_at(site)}
        return self.layer_class(site)(num_channels=site.num_features, affine=site.affine, **options)


def misfit(num_groups: int, site: NormSite) -> str | None:
    """Why this number of groups does not fit a place, or None."""
    if site.num_features % num_groups:
        return f"{num_groups} groups do not divide its {site.num_features} channels"
    if site.channel_dim == -1 and 1 < site.num_features == num_groups:
        return f"{num_groups} groups leave one value in each, which would always be normalized to 0"
    return None
