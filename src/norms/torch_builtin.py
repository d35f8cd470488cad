"""torch's own norms for maps and tokens, so that a flag switches between our norms and torch's.

The classes have the names of ours. If torch has no norm for a layout, the input is brought into a layout that torch's
norm takes. Padding is removed before the call.
"""

import torch
from torch import Tensor, nn
from torch.nn import GroupNorm, LayerNorm, RMSNorm
from torch.nn.functional import group_norm, layer_norm, rms_norm
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from src.norms.batch_norm import BatchNormFamily
from src.norms.group_norm import GroupNormFamily
from src.norms.inputs import check_at_least_2d
from src.norms.instance_norm import InstanceNormFamily
from src.norms.layer_norm import LayerNormFamily
from src.norms.padding import ReadsPaddingMask
from src.norms.rms_norm import RMSNormFamily
from src.norms.sync import OfTokens


class BatchNorm(_BatchNorm):
    """torch's batch norm of `(N, C, *)` for any number of dimensions."""

    channel_dim = 1

    def _check_input_dim(self, input: Tensor) -> None:  # torch.jit.script does not take `check_at_least_2d` itself
        if input.ndim < 2:
            raise ValueError(f"expected at least 2D input (got {input.ndim}D input)")


class TokenBatchNorm(ReadsPaddingMask, OfTokens, BatchNorm):
    """torch's batch norm of the tokens of `(..., D)`; padded positions keep their values."""

    channel_dim = -1

    def forward(self, input: Tensor) -> Tensor:
        mask = self.mask_for(input)
        if mask is None:
            return super().forward(input.reshape(-1, self.num_features)).reshape(input.shape)
        mask = mask.expand(*input.shape[:-1], 1).squeeze(-1)
        y = input.clone()
        y[mask] = super().forward(input[mask])  # (tokens, D)
        return y


class InstanceNorm(_InstanceNorm):
    """torch's instance norm of `(N, C, *)` for any number of dimensions."""

    channel_dim = 1
    _check_input_dim = check_at_least_2d

    def _get_no_batch_dim(self) -> int:
        return 0

    def forward(self, input: Tensor) -> Tensor:
        return self._apply_instance_norm(input)


class TokenInstanceNorm(ReadsPaddingMask, InstanceNorm):
    """torch's instance norm of `(B, ..., D)`, one sample at a time if there is padding; padding keeps its values."""

    channel_dim = -1

    def forward(self, input: Tensor) -> Tensor:
        mask = self.mask_for(input) if input.ndim > 2 else None  # torch's error for vectors (B, D)
        if mask is None:
            return super().forward(input.movedim(-1, 1)).movedim(1, -1)
        rows = []
        for row, valid in zip(input, mask.reshape(mask.shape[:2]), strict=True):
            y = row.clone()
            y[valid] = super().forward(row[valid].movedim(-1, 0).unsqueeze(0)).squeeze(0).movedim(0, -1)
            rows.append(y)
        return torch.stack(rows)


class TokenGroupNorm(GroupNorm):
    """torch's group norm of one position's features in `(..., D)`."""

    channel_dim = -1

    def forward(self, input: Tensor) -> Tensor:
        tokens = input.reshape(-1, self.num_channels)
        return group_norm(tokens, self.num_groups, self.weight, self.bias, self.eps).reshape(input.shape)


class ChannelLayerNorm(LayerNorm):
    """torch's layer norm of the channels of `(N, C, *)`."""

    channel_dim = 1

    def forward(self, input: Tensor) -> Tensor:
        y = layer_norm(input.movedim(1, -1), self.normalized_shape, self.weight, self.bias, self.eps)
        return y.movedim(-1, 1)


class ChannelRMSNorm(RMSNorm):
    """torch's RMS norm of the channels of `(N, C, *)`."""

    channel_dim = 1

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x.movedim(1, -1), self.normalized_shape, self.weight, self.eps).movedim(-1, 1)


class TorchBatchNormFamily(BatchNormFamily):
    __doc__ = f"torch's own. {BatchNormFamily.__doc__}"
    on_maps, on_tokens = BatchNorm, TokenBatchNorm
    drop_ins = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class TorchLayerNormFamily(LayerNormFamily):
    __doc__ = f"torch's own. {LayerNormFamily.__doc__}"
    on_maps, on_tokens = ChannelLayerNorm, LayerNorm


class TorchRMSNormFamily(RMSNormFamily):
    __doc__ = f"torch's own. {RMSNormFamily.__doc__}"
    on_maps, on_tokens = ChannelRMSNorm, RMSNorm


class TorchGroupNormFamily(GroupNormFamily):
    __doc__ = f"torch's own. {GroupNormFamily.__doc__}"
    on_maps, on_tokens = GroupNorm, TokenGroupNorm


class TorchInstanceNormFamily(InstanceNormFamily):
    __doc__ = f"torch's own. {InstanceNormFamily.__doc__}"
    on_maps, on_tokens = InstanceNorm, TokenInstanceNorm
    drop_ins = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
