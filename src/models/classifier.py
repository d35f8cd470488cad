"""What all classifiers share: the steps, the metrics, the optimizer, the hyperparameters."""

import math
import re
from collections.abc import Collection
from dataclasses import asdict, is_dataclass
from typing import Any, ClassVar

import torch
from lightning import LightningDataModule, LightningModule
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from src.models.recipe import Recipe
from src.models.tally import Tally, is_logged_step
from src.norms import NormFamily, swap_norms

# What FSDP and activation checkpointing put into the names of parameters.
WRAPPERS = re.compile(r"_fsdp_wrapped_module\.|_checkpoint_wrapped_module\.")


def as_plain_value(value: Any) -> Any:
    """A hyperparameter as a checkpoint keeps it: loadable with `weights_only=True` and the way a config writes it."""
    if isinstance(value, NormFamily):
        return value.spec()
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return value


class Classifier(LightningModule):
    """A classifier around a backbone: batches are `(inputs, labels)`, labels `(B,)`; logits are `(B, num_classes)`.

    Subclasses build `backbone` and say in `forward` how it takes its inputs.
    """

    reads: ClassVar[Collection[str]] = ()
    """The kinds of data that it takes: images, texts, tables or volumes. Empty: anything."""

    backbone: nn.Module

    def __init__(self, backbone: nn.Module, num_classes: int, norm: NormFamily | None, recipe: Recipe, compile: bool):
        super().__init__()
        self.backbone = backbone
        if norm is not None and not swap_norms(backbone, norm):
            raise ValueError(
                f"norm={type(norm).__name__}: {type(backbone).__name__} has no norms that it could replace; "
                "take a backbone with norms (vgg11_bn for vgg11, say) or norm=null"
            )
        self.recipe = recipe
        self.compile_backbone = compile
        self.loss = recipe.build_loss()
        self.train_tally = Tally()
        scores = MetricCollection(
            {
                "accuracy": MulticlassAccuracy(num_classes, average="micro", validate_args=False),
                "f1": MulticlassF1Score(num_classes, average="macro", validate_args=False),
            }
        )
        self.val_scores, self.test_scores = scores.clone(prefix="val/"), scores.clone(prefix="test/")
        # A mean metric rather than a logged mean: it adds up over processes.
        self.val_loss, self.test_loss = MeanMetric(nan_strategy="disable"), MeanMetric(nan_strategy="disable")

    def save_plain_hyperparameters(self, **options: Any) -> None:
        """Keep a subclass's constructor arguments as plain values, in the form that LightningCLI gives them."""
        self.save_hyperparameters(
            {
                "_class_path": f"{type(self).__module__}.{type(self).__qualname__}",
                "_instantiator": "lightning.pytorch.cli.instantiate_module",
                **{name: as_plain_value(value) for name, value in options.items()},
            }
        )

    def setup(self, stage: str) -> None:
        self._num_dims = {name: p.ndim for name, p in self.named_parameters()}  # before a strategy shards them
        # In place, so that the state dict's keys stay the same.
        if self.compile_backbone and self.backbone._compiled_call_impl is None:
            self.backbone.compile()

    def training_step(self, batch: tuple[Any, Tensor], batch_idx: int) -> Tensor:
        inputs, labels = batch
        logits = self(inputs)
        loss = self.loss(logits, labels)
        self.train_tally.update(loss.detach(), logits.detach(), labels)
        if is_logged_step(self.trainer):  # `self.log` costs ten times the tally, and what it keeps costs at each batch
            self.log("train/loss", loss, batch_size=len(labels))
        return loss

    def on_train_epoch_end(self) -> None:
        loss, accuracy = self.train_tally.compute()
        self.train_tally.reset()
        # They are of all processes by now; Lightning wants to be told.
        self.log_dict({"train/loss_epoch": loss, "train/accuracy": accuracy}, sync_dist=True)

    def validation_step(self, batch: tuple[Any, Tensor], batch_idx: int) -> Tensor:
        """Logits, which callbacks get."""
        logits = self._evaluate(batch, self.val_loss, self.val_scores)
        self.log("val/loss", self.val_loss)
        self.log_dict(self.val_scores, prog_bar=True)
        return logits

    def test_step(self, batch: tuple[Any, Tensor], batch_idx: int) -> Tensor:
        """Logits, which callbacks get."""
        logits = self._evaluate(batch, self.test_loss, self.test_scores)
        self.log("test/loss", self.test_loss)
        self.log_dict(self.test_scores)
        return logits

    def _evaluate(self, batch: tuple[Any, Tensor], loss: MeanMetric, scores: MetricCollection) -> Tensor:
        inputs, labels = batch
        logits = self(inputs)
        # Of each sample: with `nan_strategy="disable"`, torchmetrics 1.9 takes all weights for 1.
        loss.update(nn.functional.cross_entropy(logits, labels, reduction="none"))
        scores.update(logits, labels)
        return logits

    def predict_step(self, batch: tuple[Any, Tensor], batch_idx: int) -> Tensor:
        """Probabilities `(B, num_classes)`."""
        inputs, _ = batch
        return torch.softmax(self(inputs).float(), dim=-1)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if data := self._data():
            checkpoint["data"] = data.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # Lightning hands a data module's state to one of the same class alone; the classes have to agree in any case.
        if (data := self._data()) and "data" in checkpoint:
            data.load_state_dict(checkpoint["data"])

    def _data(self) -> LightningDataModule | None:
        return getattr(self._trainer, "datamodule", None)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        names = {WRAPPERS.sub("", name): p for name, p in self.named_parameters()}
        num_dims = {p: self._num_dims[name] for name, p in names.items()}
        optimizer = self.recipe.build_optimizer(names.values(), num_dims)
        num_steps = self.trainer.estimated_stepping_batches
        if math.isinf(num_steps):
            raise MisconfigurationException(
                "the learning rate's schedule needs an end: set --trainer.max_epochs or --trainer.max_steps"
            )
        schedule = self.recipe.build_schedule(optimizer, int(num_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
