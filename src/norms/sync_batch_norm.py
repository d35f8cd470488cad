"""Batch normalization over the batches of many processes."""

from typing import Any

from torch import nn
from torch.distributed import ProcessGroup

from src.norms.batch_norm import BatchNorm
from src.norms.sync import synchronize


class SyncBatchNorm(BatchNorm):
    """`torch.nn.SyncBatchNorm` from scratch, on CPU, too: `(N, C, *)`, over N and * of all processes.

    A process may bring any number of samples and places, none among them, as long as it makes the same calls as the
    others. Weight and bias get the gradients of the process' own samples; DistributedDataParallel averages them.

    Args:
        process_group: the processes that share their statistics; None: all. The other arguments are BatchNorm's.
    """

    synchronized = True

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: ProcessGroup | None = None,
        device: Any = None,
        dtype: Any = None,
        **bias: bool,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, **bias)
        self.process_group = process_group

    @classmethod
    def convert_sync_batchnorm(cls, module: nn.Module, process_group: ProcessGroup | None = None) -> nn.Module:
        """`module`, whose batch norms, ours and torch's, are now synchronized; the objects stay the same."""
        synchronize(module, process_group, cls)
        return module
