"""Finds the first layer whose output is not finite when the loss is not finite."""

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
from src.norms.sync import Synchronizable

log = logging.getLogger(__name__)


class FiniteLoss(Callback):
    """Warns once, in the log, of a training loss that is not finite, and names the first layer whose output is not.

    A second forward pass over the batch finds the layer, before the weights change. It moves no running statistics and
    draws no random numbers. On a CPU the loss of each step is checked. On other devices this would make the host wait,
    so that only logged steps are checked; if the weights are not finite by then, the warning says so. Lightning's
    EarlyStopping(check_finite=True) ends such a run but does not look for the layer.
    """

    def __init__(self) -> None:
        self._batch: Any = None
        self._loss = 0.0
        self._warned = False

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._batch = batch

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        if not self._warned and (loss.device.type == "cpu" or is_logged_step(trainer)):
            self._loss = loss.item()

    # After the backward pass, which needs the buffers unchanged.
    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._warned or math.isfinite(self._loss):
            return
        self._warned = True
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
            return "The layer was not searched for: a second forward pass would need all processes"
        inputs, _ = self._batch
        devices = [pl_module.device] if pl_module.device.type == "cuda" else []
        with torch.random.fork_rng(devices), uncompiled(pl_module), trainer.precision_plugin.forward_context():
            return first_not_finite(pl_module, inputs)


@torch.no_grad()
def first_not_finite(model: nn.Module, inputs: Any) -> str:
    """A sentence about the first layer, in the order in which they run, whose output is not finite."""
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
            norm.synchronized = False  # the other processes do not run this pass
        functional_call(model, {name: buffer.clone() for name, buffer in model.named_buffers()}, (inputs,))
    finally:
        for norm in synchronized:
            norm.synchronized = True
        for handle in handles:
            handle.remove()
    if not seen or torch.stack([finite for _, _, finite, _ in seen]).all():
        return (
            "In a second forward pass each layer's output is finite, so the value appeared after the last layer, or it "
            "is random"
        )
    name, layer, _, most = next(entry for entry in seen if not entry[2])
    not_finite = [key for key, parameter in layer.named_parameters() if not parameter.isfinite().all()]
    cause = f"not finite any more: its {' and '.join(not_finite)}" if not_finite else f"its input reaches {most:.3g}"
    return f"It appeared first in the output of layer '{name}' ({type(layer).__name__}): {cause}"
