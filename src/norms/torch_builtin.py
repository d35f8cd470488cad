"""torch's own norms, fitted to both layouts under the names that ours have, so that the two are one flag apart.

Where torch has no form for a layout, the input is brought into the one it has; padding is taken out before the call.
"""

import torch
from torch import Tensor
from torch.nn import (  # noqa: F401 (its layers are looked up by name)
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    GroupNorm,
    InstanceNorm1d,
    InstanceNorm2d,
    InstanceNorm3d,
    LayerNorm,
    RMSNorm,
    SyncBatchNorm,
)
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from src.norms.padding import ReadsPaddingMask


class BatchNorm(_BatchNorm):
    """torch's batch norm of `(N, C, *)` for any number of dimensions."""

    channel_dim = 1

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"expected at least 2D input (got {input.ndim}D input)")


class TokenBatchNorm(ReadsPaddingMask, BatchNorm):
    """torch's batch norm of the tokens of `(..., D)`; padding stays as it came."""

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

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"expected at least 2D input (got {input.ndim}D input)")

    def _get_no_batch_dim(self) -> int:
        return 0

    def forward(self, input: Tensor) -> Tensor:
        return self._apply_instance_norm(input)


class TokenInstanceNorm(ReadsPaddingMask, InstanceNorm):
    """torch's instance norm of `(B, ..., D)`, one sample at a time where there is padding, which stays as it came."""

    channel_dim = -1

    def forward(self, input: Tensor) -> Tensor:
        mask = self.mask_for(input)
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
        return super().forward(input.reshape(-1, self.num_channels)).reshape(input.shape)


class ChannelLayerNorm(LayerNorm):
    """torch's layer norm of the channels of `(N, C, *)`."""

    channel_dim = 1

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.movedim(1, -1)).movedim(-1, 1)


class ChannelRMSNorm(RMSNorm):
    """torch's RMS norm of the channels of `(N, C, *)`."""

    channel_dim = 1

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)
