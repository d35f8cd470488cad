"""The mistakes of a classifier, and its embeddings of the samples, in TensorBoard."""

from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from torchmetrics.classification import MulticlassConfusionMatrix

from src.callbacks.evaluation_charts import Mistake, confusion_figure, mistakes_figure, mistakes_table
from src.callbacks.time_budget import TimeBudget
from src.data import ClassificationData, ImageData, TextData
from src.data.sampler import BatchSampler

SPRITE = 32
"""The largest side of an image in the projector, in pixels."""


class EvaluationPictures(Callback):
    """Shows the confusion matrix and the worst mistakes of validation and test, and the embeddings of the samples.

    The confusion matrix counts the samples of all processes. The mistakes are the wrong predictions with the highest
    loss: images as a picture, texts as a table. The embeddings, on the page PROJECTOR, are the inputs of the
    classifier's last layer for the first samples of the last validation. With a compiled backbone there are no
    embeddings. Mistakes and embeddings come from the samples of the first process.

    All are drawn when training ends, and whenever only validation runs. Before the end of training, the mistakes and
    the confusion matrix are drawn for about 1% of the time at most. Images are shown as they are in evaluation before
    scaling. Nothing is drawn if the data module has loaders of its own, such as several for validation.

    Args:
        enabled: false switches all of this off.
        num_mistakes: the most mistakes to show; 0 for none.
        num_embeddings: the most samples in the projector; 0 for none.
    """

    def __init__(self, enabled: bool = True, num_mistakes: int = 16, num_embeddings: int = 1000) -> None:
        for name, value in (("num_mistakes", num_mistakes), ("num_embeddings", num_embeddings)):
            if value < 0:
                raise ValueError(f"evaluation_pictures.{name}={value}: expected 0 (none) or more")
        self.enabled = enabled
        self.num_mistakes = num_mistakes
        self.num_embeddings = num_embeddings
        self._drawing = TimeBudget()
        self._on = False
        self._collecting = False  # in the validation or test that is running
        self._data: Any = None
        self._handle: RemovableHandle | None = None
        self._reset()

    def _reset(self) -> None:
        self._scored: list[Tensor] = []  # (4, B) each: loss, class, predicted class and its probability
        self._features: list[Tensor] = []
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._data = getattr(trainer, "datamodule", None)
        self._writers = [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        self._on = self.enabled and bool(self._writers) and isinstance(self._data, ClassificationData)
        if self._on:
            self._counts = MulticlassConfusionMatrix(self._data.num_classes, validate_args=False)

    def _start(self, pl_module: LightningModule, loaders: Any) -> None:
        self._reset()
        # Other samplers do not tell which samples are in a batch.
        self._collecting = self._on and isinstance(getattr(loaders, "sampler", None), BatchSampler)
        if self._collecting:
            self._counts.reset()
            self._counts.to(pl_module.device)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start(pl_module, trainer.val_dataloaders)
        backbone = getattr(pl_module, "backbone", None)
        if self._collecting and self.num_embeddings and backbone is not None and backbone._compiled_call_impl is None:
            heads = [
                m for m in backbone.modules() if isinstance(m, nn.Linear) and m.out_features == self._data.num_classes
            ]
            if heads:
                self._handle = heads[-1].register_forward_pre_hook(self._keep_features)

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start(pl_module, trainer.test_dataloaders)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._reset()

    def _keep_features(self, head: nn.Module, args: tuple[Tensor, ...]) -> None:
        if args[0].ndim == 2 and sum(map(len, self._features)) < self.num_embeddings:
            # A copy: the input may be a small view of a large tensor, as with a ViT's tokens, and would keep it alive.
            self._features.append(args[0].detach().to(torch.float32, copy=True))

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not self._collecting:
            return
        logits, labels = outputs.detach().float(), batch[1]
        self._counts.update(logits, labels)
        probability, predicted = logits.softmax(-1).max(-1)
        loss = nn.functional.cross_entropy(logits, labels, reduction="none")
        self._scored.append(torch.stack((loss, labels.float(), predicted.float(), probability)))

    on_test_batch_end = on_validation_batch_end

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        only_validating = trainer.state.fn == TrainerFn.VALIDATING
        self._finish(trainer, "val", draw=only_validating or self._drawing.is_due())
        if only_validating:
            self._project(trainer)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._finish(trainer, "test", draw=True)

    def _finish(self, trainer: Trainer, split: str, draw: bool) -> None:
        if self._handle is not None:
            self._handle.remove()
        if self._scored:
            self._matrix = (
                self._counts.compute().cpu().numpy()
            )  # a collective: all processes take part, whether one draws or not
            if draw and trainer.is_global_zero:
                with self._drawing.timed():
                    self._draw(trainer, split)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._scored and trainer.is_global_zero:
            self._draw(trainer, "val")
            self._project(trainer)

    def _rows(self, trainer: Trainer, split: str) -> list[int]:
        """The indices in the dataset of the samples in the last validation or test."""
        loader: Any = trainer.val_dataloaders if split == "val" else trainer.test_dataloaders
        return [row for batch in loader.sampler for row in batch]

    def _draw(self, trainer: Trainer, split: str) -> None:
        names, step = self._data.class_names, trainer.global_step
        for writer in self._writers:
            writer.add_figure(f"confusion/{split}", confusion_figure(self._matrix, names), step)
        loss, true, predicted, probability = torch.cat(self._scored, dim=1).cpu()
        wrong = (true != predicted).nonzero().flatten()
        worst = wrong[loss[wrong].argsort(descending=True)][: self.num_mistakes].tolist()
        rows = self._rows(trainer, split)
        mistakes = [
            Mistake(rows[i], names[int(true[i])], names[int(predicted[i])], probability[i].item(), loss[i].item())
            for i in worst
        ]
        if not mistakes:
            return
        shown = [mistake.row for mistake in mistakes]
        for writer in self._writers:
            if isinstance(self._data, ImageData):
                writer.add_figure(f"mistakes/{split}", mistakes_figure(self._images(split, shown), mistakes), step)
            elif isinstance(self._data, TextData):
                writer.add_text(f"mistakes/{split}", mistakes_table(self._texts(split, shown), mistakes), step)

    def _images(self, split: str, rows: list[int]) -> np.ndarray:
        images, _ = self._data.datasets[split].batch(np.array(rows))
        shown: np.ndarray = self._data.brighten(images).byte().numpy()
        return shown

    def _texts(self, split: str, rows: list[int]) -> list[str]:
        """Read the texts again, since a run keeps only their token ids."""
        texts = self._data.load_splits()[split].texts
        return [texts[row] for row in rows]

    def _project(self, trainer: Trainer) -> None:
        if not self._features or not trainer.is_global_zero:
            return
        features = torch.cat(self._features)[: self.num_embeddings].cpu()
        _, true, predicted, _ = torch.cat(self._scored, dim=1)[:, : len(features)].int().tolist()
        names = self._data.class_names
        classes = [[names[a], names[b]] for a, b in zip(true, predicted, strict=True)]
        sprites = None
        if isinstance(self._data, ImageData):
            images = torch.from_numpy(self._images("val", self._rows(trainer, "val")[: len(features)])).float() / 255
            sprites = images if images.shape[-1] <= SPRITE else nn.functional.interpolate(images, SPRITE, mode="area")
            sprites = sprites / sprites.amax().clamp(min=1e-6)
        for writer in self._writers:
            writer.add_embedding(features, classes, sprites, trainer.global_step, "val", ["class", "predicted"])
