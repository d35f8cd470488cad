"""The table of norms: each name that a flag can take, with its family.

Each family is in the file of its layer. An option that is not given keeps the setting of the layer that is replaced, or
the new layer's default where the replaced layer has no such setting.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from src.norms import (
    batch_norm,
    derf,
    dynamic_tanh,
    group_norm,
    identity,
    instance_norm,
    layer_norm,
    rms_norm,
    torch_builtin,
)
from src.norms.family import NormFamily


def table(**families: type[NormFamily]) -> Mapping[str, NormFamily]:
    """The families by name. The class of each family gets that name, and this module as its module.

    Configurations and checkpoints name a family by this address: `src.norms.families.BatchNorm`. In its own file the
    class cannot have that name, since the layer has it.
    """
    for name, family in families.items():
        family.__module__, family.__name__, family.__qualname__ = __name__, name, name
    return MappingProxyType({name: family() for name, family in families.items()})


NORMS = table(
    BatchNorm=batch_norm.BatchNormFamily,
    LayerNorm=layer_norm.LayerNormFamily,
    RMSNorm=rms_norm.RMSNormFamily,
    GroupNorm=group_norm.GroupNormFamily,
    InstanceNorm=instance_norm.InstanceNormFamily,
    DynamicTanh=dynamic_tanh.DynamicTanhFamily,
    Derf=derf.DerfFamily,
    Identity=identity.IdentityFamily,
    TorchBatchNorm=torch_builtin.TorchBatchNormFamily,
    TorchLayerNorm=torch_builtin.TorchLayerNormFamily,
    TorchRMSNorm=torch_builtin.TorchRMSNormFamily,
    TorchGroupNorm=torch_builtin.TorchGroupNormFamily,
    TorchInstanceNorm=torch_builtin.TorchInstanceNormFamily,
)


def __getattr__(name: str) -> Any:
    """The class of a family at its address: `families.GroupNorm(num_groups=8)`."""
    if name in NORMS:
        return type(NORMS[name])
    raise AttributeError(f"module {__name__} has no attribute {name}")
