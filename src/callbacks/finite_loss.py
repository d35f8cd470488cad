"""Where a loss that is not finite comes from."""

import logging
import math
from collections.abc import Callable
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from torch import Tensor, nn
from torch.func import functional_call

from src.callbacks.uncompiled import uncompiled
from src.models.logged_steps import is_logged_step
from src.norms.processes import Synchronizable

log = logging.getLogger(__name__)


class FiniteLoss(Callback):
    """Warns once, in the log, of a training loss that is not finite, with the first layer where that appeared.

    The layer is found by a second forward pass over the batch, before the weights change, in which no running
    statistic moves and no random number is spent. On a CPU each step's loss is looked at; elsewhere that would make
    the device wait, and the logged steps' are: by then, the weights may not be finite any more, which the warning says.
    """

    def __init__(self) -> None:
        self._batch: Any = None
        self._loss = 0.0
        self._said = False

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._batch = batch

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        if not self._said and (loss.device.type == "cpu" or is_logged_step(trainer)):
            self._loss = loss.item()

    # After it, since the backward pass needs its buffers as they are.
    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._said or math.isfinite(self._loss):
            return
        self._said = True
        where = f" of process {trainer.global_rank}" if trainer.world_size > 1 else ""
        log.warning(
            "step %d: the loss%s is %g. %s. Lower --model.recipe.lr, warm up longer (--model.recipe.warmup), or clip "
            "gradients (--trainer.gradient_clip_val=1). The run goes on; Lightning's EarlyStopping with "
            "check_finite=true ends such a run, and --trainer.detect_anomaly=true names the operation in the backward "
            "pass.",
            *(trainer.global_step, where, self._loss, self._find(trainer, pl_module)),
        )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._batch = None

    def _find(self, trainer: Trainer, pl_module: LightningModule) -> str:
        sharded = isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy)
        if sharded or (trainer.world_size > 1 and any(type(m) is nn.SyncBatchNorm for m in pl_module.modules())):
            return "The layer is not sought: a forward pass would need all processes"
        inputs, _ = self._batch
        devices = [pl_module.device] if pl_module.device.type == "cuda" else []
        with torch.random.fork_rng(devices), uncompiled(pl_module), trainer.precision_plugin.forward_context():
            return first_not_finite(pl_module, inputs)


@torch.no_grad()
def first_not_finite(model: nn.Module, inputs: Any) -> str:
    """A sentence on the first layer, in the order in which they run, whose output is not finite."""
    seen: list[tuple[str, nn.Module, Tensor, Tensor]] = []

    def look(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(layer: nn.Module, args: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.is_floating_point() and args and isinstance(args[0], Tensor):
                seen.append((name, layer, output.isfinite().all(), args[0].abs().max()))

        return hook

    leaves = [(name, layer) for name, layer in model.named_modules() if not any(layer.children())]
    handles = [layer.register_forward_hook(look(name)) for name, layer in leaves]
    synchronized = [m for m in model.modules() if isinstance(m, Synchronizable) and m.synchronized]
    try:
        for norm in synchronized:
            norm.synchronized = False  # the other processes do not come along
        functional_call(model, {name: buffer.clone() for name, buffer in model.named_buffers()}, (inputs,))
    finally:
        for norm in synchronized:
            norm.synchronized = True
        for handle in handles:
            handle.remove()
    if not seen or torch.stack([finite for _, _, finite, _ in seen]).all():
        return (
            "In a second forward pass each layer's output is finite, so it appeared after the last layer, or by chance"
        )
    name, layer, _, most = next(entry for entry in seen if not entry[2])
    spoilt = [key for key, parameter in layer.named_parameters() if not parameter.isfinite().all()]
    cause = f"not finite any more: its {' and '.join(spoilt)}" if spoilt else f"its input reaches {most:.3g}"
    return f"It appeared first in the output of layer '{name}' ({type(layer).__name__}): {cause}"
