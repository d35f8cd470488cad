"""The number of samples in an optimizer step, and the learning rate that suits it."""

import math

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch.nn.modules.batchnorm import _BatchNorm

from src.data.sampler import BatchSampler
from src.models import Classifier, Recipe


class BatchSizeSummary(Callback):
    """Prints, when training starts, samples per step, learning rate and the samples that batch statistics use."""

    @rank_zero_only
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Classifier)
        sampler = getattr(trainer.train_dataloader, "sampler", None)
        assert isinstance(sampler, BatchSampler)
        lines = summary(sampler.batch_size, trainer.world_size, trainer.accumulate_grad_batches, pl_module.recipe)
        layers = [layer for layer in pl_module.modules() if isinstance(layer, _BatchNorm)]
        if layers and trainer.world_size > 1:
            samples = sampler.batch_size * trainer.world_size
            synchronized = trainer.strategy._layer_sync is not None  # type: ignore[attr-defined]
            lines["Batch norms"] = (
                f"statistics of {samples} samples"
                if synchronized
                else f"statistics of the {sampler.batch_size} samples of each process; "
                f"of all {samples} with --trainer.sync_batchnorm=true"
            )
        print("\n".join(f"{name:<16}{text}" for name, text in lines.items()), flush=True)


def summary(batch_size: int, processes: int, accumulated: int, recipe: Recipe) -> dict[str, str]:
    """The printed lines by their names; `accumulated` is the number of batches per optimizer step.

    The learning rate is shown and not scaled, since the recipe may have been chosen for many processes. The scaling
    rules are linear for SGD (arXiv 1706.02677) and the square root for AdamW (arXiv 2205.10287).
    """
    times = processes * accumulated
    factors = [f"{batch_size} a batch"]
    if processes > 1:
        factors.append(f"{processes} processes")
    if accumulated > 1:
        factors.append(f"{accumulated} batches")
    lines = {"Samples a step": f"{batch_size * times}" + (f" = {' x '.join(factors)}" if times > 1 else "")}
    lines["Learning rate"] = f"{recipe.lr:g}"
    if times > 1:
        linear = recipe.optimizer == "sgd"
        scaled = recipe.lr * (times if linear else math.sqrt(times))
        lines["Learning rate"] += (
            f", not scaled; where it was chosen for {batch_size} samples a step, "
            f"{'linear' if linear else 'square-root'} scaling gives --model.recipe.lr={scaled:.3g}"
        )
    return lines
