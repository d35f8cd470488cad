"""The catalogue: every norm that a flag can name.

A class here carries a norm's name and options; the layers are in the norm's own file, and torch's in `torch_builtin`.
Options left at None keep what the replaced layer had, or the layer's default where it had none.
"""

from collections.abc import Mapping
from types import MappingProxyType, ModuleType
from typing import TypeVar

from torch import nn

from src.norms import batch_norm, dynamic_tanh, group_norm, identity, instance_norm, layer_norm, rms_norm, torch_builtin
from src.norms.family import NormFamily, NormSite, given
from src.norms.padding import ReadsPaddingMask
from src.norms.sync_batch_norm import SyncBatchNorm


def layers_of(module: ModuleType, kind: str) -> dict[str, type[nn.Module]]:
    """The layers of one kind in a module, by class name: `BatchNorm2d`, `TokenBatchNorm`, ..."""
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, type) and kind in name and issubclass(value, nn.Module)
    }


def without_bias(layer: nn.Module) -> nn.Module:
    """For the layers whose constructor takes `bias` only in some versions of torch."""
    layer.register_parameter("bias", None)
    return layer


Number = TypeVar("Number", int, float)


def positive(name: str, value: Number | None) -> Number | None:
    """The value of an option, or None where it is not given."""
    if value is not None and value <= 0:
        raise ValueError(f"{name}={value}: expected a number above 0")
    return value


class BatchNorm(NormFamily):
    """Each channel over the batch and its positions; running statistics in eval (arXiv 1502.03167).

    Args:
        eps: added to the variance.
        momentum: the share of a new batch in the running statistics.
        masked: on text, whether statistics leave padding out, as they do by default; false shows what it does to them.
        track_running_stats: whether to keep running statistics, as by default; without them eval takes the batch's.
    """

    kind = "BatchNorm"
    stands_in = {**layers_of(batch_norm, kind), "SyncBatchNorm": SyncBatchNorm}

    def __init__(
        self,
        eps: float | None = None,
        momentum: float | None = None,
        masked: bool | None = None,
        track_running_stats: bool | None = None,
    ) -> None:
        self.eps, self.momentum = positive("eps", eps), positive("momentum", momentum)
        self.masked, self.track_running_stats = masked, track_running_stats
        self.overrides = given(eps=eps, momentum=momentum, masked=masked, track_running_stats=track_running_stats)

    def set_options(self, layer: nn.Module) -> None:
        super().set_options(layer)
        if self.track_running_stats is False:
            for name in ("running_mean", "running_var", "num_batches_tracked"):
                layer.register_buffer(name, None)

    def build(self, site: NormSite) -> nn.Module:
        layer_class = self.stands_in["TokenBatchNorm" if site.channel_dim == -1 else "BatchNorm"]
        options = {"momentum": site.momentum, **self.options_at(site)}
        masked = options.pop("masked", None)
        layer = layer_class(site.num_features, affine=site.affine, **options)
        if isinstance(layer, ReadsPaddingMask) and masked is not None:
            layer.masked = masked
        return layer if site.bias else without_bias(layer)


class LayerNorm(NormFamily):
    """The features of one position (arXiv 1607.06450); on maps, the channels of one place (arXiv 2201.03545).

    Args:
        eps: added to the variance.
    """

    kind = "LayerNorm"
    stands_in = layers_of(layer_norm, kind)

    def __init__(self, eps: float | None = None) -> None:
        self.eps = positive("eps", eps)
        self.overrides = given(eps=eps)

    def build(self, site: NormSite) -> nn.Module:
        layer_class = self.stands_in["LayerNorm" if site.channel_dim == -1 else "ChannelLayerNorm"]
        return layer_class(site.num_features, elementwise_affine=site.affine, bias=site.bias, **self.options_at(site))


class RMSNorm(NormFamily):
    """As LayerNorm, without subtracting the mean (arXiv 1910.07467).

    Args:
        eps: added to the mean square.
    """

    kind = "RMSNorm"
    stands_in = layers_of(rms_norm, kind)

    def __init__(self, eps: float | None = None) -> None:
        self.eps = positive("eps", eps)
        self.overrides = given(eps=eps)

    def build(self, site: NormSite) -> nn.Module:
        layer_class = self.stands_in["RMSNorm" if site.channel_dim == -1 else "ChannelRMSNorm"]
        return layer_class(site.num_features, elementwise_affine=site.affine, **self.options_at(site))


DEFAULT_GROUPS = 32


def misfit(num_groups: int, site: NormSite) -> str | None:
    """Why so many groups do not fit a place, or None."""
    if site.num_features % num_groups:
        return f"{num_groups} groups do not divide its {site.num_features} channels"
    if site.channel_dim == -1 and 1 < site.num_features == num_groups:
        return f"{num_groups} groups leave one value in each, which would always be normalized to 0"
    return None


class GroupNorm(NormFamily):
    """A group of channels with its positions (arXiv 1803.08494); on tokens, a group of one position's features.

    Args:
        num_groups: groups that the channels are cut into; must divide the channels of each norm in the model. Not
            given: those of the replaced layer if it is a group norm, else 32.
        eps: added to the variance.
    """

    kind = "GroupNorm"
    stands_in = layers_of(group_norm, kind)

    def __init__(self, num_groups: int | None = None, eps: float | None = None) -> None:
        self.num_groups, self.eps = positive("num_groups", num_groups), positive("eps", eps)
        self.overrides = given(num_groups=num_groups, eps=eps)

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

    def build(self, site: NormSite) -> nn.Module:
        layer_class = self.stands_in["TokenGroupNorm" if site.channel_dim == -1 else "GroupNorm"]
        options = {"num_groups": DEFAULT_GROUPS, **self.options_at(site)}
        layer = layer_class(num_channels=site.num_features, affine=site.affine, **options)
        return layer if site.bias else without_bias(layer)


class InstanceNorm(NormFamily):
    """Each channel of each sample over its positions (arXiv 1607.08022).

    Args:
        eps: added to the variance.
    """

    kind = "InstanceNorm"
    needs_positions = True
    stands_in = layers_of(instance_norm, kind)

    def __init__(self, eps: float | None = None) -> None:
        self.eps = positive("eps", eps)
        self.overrides = given(eps=eps)

    def build(self, site: NormSite) -> nn.Module:
        layer_class = self.stands_in["TokenInstanceNorm" if site.channel_dim == -1 else "InstanceNorm"]
        layer = layer_class(site.num_features, affine=site.affine, **self.options_at(site))
        return layer if site.bias else without_bias(layer)


class DynamicTanh(NormFamily):
    """tanh(alpha * x) with a learned alpha, instead of a norm (arXiv 2503.10622).

    Args:
        alpha: the first value of alpha.
    """

    kind = "DynamicTanh"
    stands_in = {"DynamicTanh": dynamic_tanh.DynamicTanh}

    def __init__(self, alpha: float = 0.5) -> None:
        self.alpha = alpha

    def build(self, site: NormSite) -> nn.Module:
        layer = dynamic_tanh.DynamicTanh(site.num_features, site.channel_dim, self.alpha, site.affine)
        return layer if site.bias else without_bias(layer)


class Identity(NormFamily):
    """No norm at all: what the others are measured against."""

    kind = "Identity"
    stands_in = {"Identity": identity.Identity}

    def build(self, site: NormSite) -> nn.Module:
        return identity.Identity(site.num_features, site.channel_dim)


class TorchBatchNorm(BatchNorm):
    __doc__ = f"torch's own. {BatchNorm.__doc__}"
    stands_in = layers_of(torch_builtin, BatchNorm.kind)


class TorchLayerNorm(LayerNorm):
    __doc__ = f"torch's own. {LayerNorm.__doc__}"
    stands_in = layers_of(torch_builtin, LayerNorm.kind)


class TorchRMSNorm(RMSNorm):
    __doc__ = f"torch's own. {RMSNorm.__doc__}"
    stands_in = layers_of(torch_builtin, RMSNorm.kind)


class TorchGroupNorm(GroupNorm):
    __doc__ = f"torch's own. {GroupNorm.__doc__}"
    stands_in = layers_of(torch_builtin, GroupNorm.kind)


class TorchInstanceNorm(InstanceNorm):
    __doc__ = f"torch's own. {InstanceNorm.__doc__}"
    stands_in = layers_of(torch_builtin, InstanceNorm.kind)


NORMS: Mapping[str, NormFamily] = MappingProxyType(
    {
        "BatchNorm": BatchNorm(),
        "LayerNorm": LayerNorm(),
        "RMSNorm": RMSNorm(),
        "GroupNorm": GroupNorm(),
        "InstanceNorm": InstanceNorm(),
        "DynamicTanh": DynamicTanh(),
        "Identity": Identity(),
        "TorchBatchNorm": TorchBatchNorm(),
        "TorchLayerNorm": TorchLayerNorm(),
        "TorchRMSNorm": TorchRMSNorm(),
        "TorchGroupNorm": TorchGroupNorm(),
        "TorchInstanceNorm": TorchInstanceNorm(),
    }
)
