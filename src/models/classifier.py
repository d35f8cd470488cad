"""The base class of all classifiers: steps, metrics, optimizer and hyperparameters."""

import inspect
import math
import re
from collections.abc import Collection
from dataclasses import asdict, is_dataclass
from typing import Any, ClassVar

import torch
from lightning import LightningDataModule, LightningModule
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from src.models.logged_steps import is_logged_step
from src.models.recipe import Recipe
from src.models.tally import Tally
from src.norms import NormFamily, swap_norms
from src.norms.replaced import by_reason

# Parts that FSDP and activation checkpointing add to the names of parameters.
WRAPPERS = re.compile(r"_fsdp_wrapped_module\.|_checkpoint_wrapped_module\.")


def as_plain_value(value: Any) -> Any:
    """A hyperparameter as a checkpoint keeps it: in a config's form, and loadable with `weights_only=True`."""
    if isinstance(value, NormFamily):
        return value.spec()
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return value


def put_norm(backbone: nn.Module, norm: NormFamily, pretrained: bool) -> None:
    """Replace the norms of a backbone. If its weights are pretrained, the log says which of the norms' are kept.

    Raises:
        ValueError: the backbone has no norm that could be replaced.
    """
    replaced = swap_norms(backbone, norm)
    if not replaced:
        reasons = f" ({by_reason(replaced.left_alone)})" if replaced.left_alone else ""
        raise ValueError(
            f"norm={type(norm).__name__}: {type(backbone).__name__} has no norms that it could replace{reasons}; "
            "take a backbone with norms (vgg11_bn for vgg11, say) or norm=null"
        )
    if pretrained:
        rank_zero_info(
            f"{len(replaced)} norms of the pretrained model are replaced by {type(norm).__name__}; {replaced.summary()}"
        )


class Classifier(LightningModule):
    """A classifier around a backbone: batches are `(inputs, labels)`, labels `(B,)`; logits are `(B, num_classes)`.

    A subclass builds the backbone, and its `forward` gives the inputs to the backbone. The arguments of the subclass's
    constructor are kept in checkpoints as its hyperparameters.

    Args:
        backbone: the model, whose norms are replaced in place.
        num_classes: number of classes.
        norm: the norm that replaces each norm of the backbone; None keeps the backbone's own.
        recipe: loss, optimizer and schedule.
        compile: run the backbone through torch.compile.
        pretrained: whether the backbone's weights are pretrained; the log then says which weights of norms are kept.
    """

    modalities: ClassVar[Collection[str]] = ()
    """The data that the model takes: images, texts, tables or volumes (`ClassificationData.modality`). Empty: any."""

    backbone: nn.Module

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        norm: NormFamily | None,
        recipe: Recipe,
        compile: bool = False,
        pretrained: bool = False,
    ) -> None:
        super().__init__()
        self._save_hyperparameters()
        self.backbone = backbone
        if norm is not None:
            put_norm(backbone, norm, pretrained)
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
        # Metrics, since a logged mean would not weight the processes by their numbers of samples.
        self.val_loss, self.test_loss = MeanMetric(nan_strategy="disable"), MeanMetric(nan_strategy="disable")

    def _save_hyperparameters(self) -> None:
        """Keep the constructor's arguments as plain values, in the form that LightningCLI gives them.

        Lightning's `save_hyperparameters()` without arguments would keep what LightningCLI was given, which lacks the
        arguments that come from the data.
        """
        self.save_hyperparameters(
            {
                "_class_path": f"{type(self).__module__}.{type(self).__qualname__}",
                "_instantiator": "lightning.pytorch.cli.instantiate_module",
                **{name: as_plain_value(value) for name, value in self._constructor_arguments().items()},
            }
        )

    def _constructor_arguments(self) -> dict[str, Any]:
        """The arguments of the subclass's constructor, which is running: read from its frame, as Lightning does."""
        arguments: dict[str, Any] = {}
        frame = inspect.currentframe()
        while frame := frame and frame.f_back:
            names, _, keywords, values = inspect.getargvalues(frame)
            if not names or values.get(names[0]) is not self:
                break
            if frame.f_code.co_name == "__init__":  # a subclass's frame comes after its base class's
                arguments = {name: values[name] for name in names[1:]} | (values[keywords] if keywords else {})
        return arguments

    def setup(self, stage: str) -> None:
        # A strategy that shards parameters, such as FSDP, may flatten them.
        self._num_dims = {name: p.ndim for name, p in self.named_parameters()}
        # In place, so that the state dict's keys stay the same.
        if self.compile_backbone and self.backbone._compiled_call_impl is None:
            self.backbone.compile()

    def training_step(self, batch: tuple[Any, Tensor], batch_idx: int) -> Tensor:
        inputs, labels = batch
        logits = self(inputs)
        loss = self.loss(logits, labels)
        self.train_tally.update(loss.detach(), logits.detach(), labels)
        # `self.log` costs ten times as much as the tally, and each value that it keeps costs time at every batch.
        if is_logged_step(self.trainer):
            self.log("train/loss", loss, batch_size=len(labels))
        return loss

    def on_train_epoch_end(self) -> None:
        loss, accuracy = self.train_tally.compute()
        self.train_tally.reset()
        # Already reduced over processes; `sync_dist=True` only tells Lightning so.
        self.log_dict({"train/loss_epoch": loss, "train/accuracy": accuracy}, sync_dist=True)

    def validation_step(self, batch: tuple[Any, Tensor], batch_idx: int) -> Tensor:
        """Returns the logits `(B, num_classes)`, which callbacks receive as `outputs`."""
        logits = self._evaluate(batch, self.val_loss, self.val_scores)
        self.log("val/loss", self.val_loss)
        self.log_dict(self.val_scores, prog_bar=True)
        return logits

    def test_step(self, batch: tuple[Any, Tensor], batch_idx: int) -> Tensor:
        """Returns the logits `(B, num_classes)`, which callbacks receive as `outputs`."""
        logits = self._evaluate(batch, self.test_loss, self.test_scores)
        self.log("test/loss", self.test_loss)
        self.log_dict(self.test_scores)
        return logits

    def _evaluate(self, batch: tuple[Any, Tensor], loss: MeanMetric, scores: MetricCollection) -> Tensor:
        inputs, labels = batch
        logits = self(inputs)
        # One loss a sample: with `nan_strategy="disable"`, torchmetrics 1.9 ignores weights.
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
        # Lightning restores the state of a data module only into one of the same class. Here the names of the classes
        # are compared for every data module.
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
