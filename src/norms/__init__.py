"""Norms written from scratch, the table `NORMS` for the flag, and `swap_norms`, which puts a norm into any model.

The batch, instance, group, layer and RMS norms exported here replace torch's classes of the same name. `NORMS` holds
the families, which have no sizes yet. `NORMS["LayerNorm"](64, channel_dim=1)` builds one layer. A call
`swap_norms(model, NORMS["LayerNorm"])` builds a layer for each place in a model. `families.GroupNorm(num_groups=8)` is
a family with an option.
"""

from src.norms.batch_norm import BatchNorm1d, BatchNorm2d, BatchNorm3d, SyncBatchNorm
from src.norms.dynamic_tanh import DynamicTanh
from src.norms.families import NORMS
from src.norms.family import NormFamily
from src.norms.group_norm import GroupNorm
from src.norms.identity import Identity
from src.norms.instance_norm import InstanceNorm1d, InstanceNorm2d, InstanceNorm3d
from src.norms.layer_norm import LayerNorm
from src.norms.rms_norm import RMSNorm
from src.norms.swap import swap_norms
from src.norms.sync import check_synchronizable, synchronize

__all__ = [
    "NORMS",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "DynamicTanh",
    "GroupNorm",
    "Identity",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "InstanceNorm3d",
    "LayerNorm",
    "NormFamily",
    "RMSNorm",
    "SyncBatchNorm",
    "check_synchronizable",
    "swap_norms",
    "synchronize",
]
