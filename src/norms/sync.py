"""Batch statistics over many processes."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from src.norms import batch_norm, torch_builtin


def refuse_unsynchronized(model: nn.Module) -> None:
    """Raise for a batch norm that torch's own conversion would replace by one that computes something else.

    `Trainer(sync_batchnorm=True)` turns every `_BatchNorm` into torch's `SyncBatchNorm`, which reads `(N, C, *)` and
    knows of no padding.

    Raises:
        ValueError: names the layer and the way out.
    """
    for name, layer in model.named_modules():
        ours = isinstance(layer, (batch_norm.BatchNorm, torch_builtin.TokenBatchNorm))
        if ours and isinstance(layer, _BatchNorm):
            way_out = (
                "take a norm of single samples, such as LayerNorm"
                if layer.channel_dim == -1
                else "take --model.norm=TorchBatchNorm, or a norm of single samples, such as GroupNorm"
            )
            raise ValueError(
                f"sync_batchnorm=true cannot be honoured for layer '{name}' ({type(layer).__name__}), which has no "
                f"synchronized form; {way_out}"
            )
