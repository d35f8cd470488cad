"""What the usual Lightning template does: PIL transforms for each sample, metrics' `forward`, a log at each step.

`python -m benchmarks.template ROOT` trains `SmallNet` on Fashion-MNIST so; `OURS` makes train.py train the same.
"""

import sys
from dataclasses import asdict
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy
from torchvision import transforms

from benchmarks.small import SmallNet
from src.data import ClassificationData, FashionMNIST, ImageData
from src.models import Classifier, Recipe

NUM_WORKERS = 2
WIDTH, EPOCHS, BATCH_SIZE = 32, 5, 128
RECIPE = Recipe(lr=0.2, schedule="one_cycle", warmup=0.25)
OURS = [
    *["--data=FashionMNIST", f"--data.batch_size={BATCH_SIZE}", "--data.crop_padding=0"],
    *["--model=benchmarks.small.SmallNet", f"--model.width={WIDTH}", "--model.norm=BatchNorm"],
    *[f"--model.recipe.{name}={value}" for name, value in asdict(RECIPE).items()],
    *[f"--trainer.max_epochs={EPOCHS}", "--trainer.accelerator=cpu"],
]


class PILImages(Dataset[tuple[Tensor, int]]):
    """One image at a time, through PIL."""

    def __init__(self, data: ImageData, split: str):
        self.dataset: Any = data.datasets[split]
        steps: list[Any] = []
        if split == "train":
            steps += [transforms.RandomCrop(data.image_size, data.crop_padding)] if data.crop_padding else []
            steps += [transforms.RandomHorizontalFlip()] if data.flip else []
        scaling = data._fitted_scaling
        mean, std = (scaling.shift / 255).flatten().tolist(), (scaling.scale / 255).flatten().tolist()
        self.transform = transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(mean, std)])

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        pixels = self.dataset.pixels[self.dataset.rows[index]]  # (C, H, W)
        image = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
        return self.transform(image), int(self.dataset.labels[index])


class TokenLists(Dataset[tuple[Tensor, int]]):
    """One text at a time, as the ids that it was tokenized to before."""

    def __init__(self, data: ClassificationData, split: str):
        self.dataset: Any = data.datasets[split]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        inputs, label = self.dataset[[index]]
        return inputs["input_ids"][0], int(label)


def collate_texts(samples: list[tuple[Tensor, int]]) -> tuple[dict[str, Tensor], Tensor]:
    """Pad the texts to the longest of the batch."""
    ids = pad_sequence([ids for ids, _ in samples], batch_first=True)
    mask = pad_sequence([torch.ones_like(ids) for ids, _ in samples], batch_first=True)
    return {"input_ids": ids, "attention_mask": mask}, torch.tensor([label for _, label in samples])


def loader(data: ClassificationData, split: str) -> DataLoader[Any]:
    """The data module's split, sample by sample, through worker processes."""
    options: dict[str, Any] = {"batch_size": data.batch_size, "num_workers": NUM_WORKERS, "shuffle": split == "train"}
    if isinstance(data, ImageData):
        return DataLoader(PILImages(data, split), drop_last=split == "train", **options)
    return DataLoader(TokenLists(data, split), drop_last=split == "train", collate_fn=collate_texts, **options)


class TemplateModule(LightningModule):
    """The network, loss, optimizer and schedule of a classifier, in a template's steps."""

    def __init__(self, classifier: Classifier, num_classes: int):
        super().__init__()
        self.network = classifier
        self.criterion = classifier.loss
        self.recipe = classifier.recipe
        self.train_loss, self.val_loss, self.test_loss = MeanMetric(), MeanMetric(), MeanMetric()
        self.train_acc = MulticlassAccuracy(num_classes, average="micro")
        self.val_acc = MulticlassAccuracy(num_classes, average="micro")
        self.test_acc = MulticlassAccuracy(num_classes, average="micro")

    def model_step(self, batch: tuple[Any, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        inputs, labels = batch
        logits = self.network(inputs)
        return self.criterion(logits, labels), logits.argmax(dim=1), labels

    def training_step(self, batch: tuple[Any, Tensor], batch_idx: int) -> Tensor:
        loss, predicted, labels = self.model_step(batch)
        self.train_loss(loss)
        self.train_acc(predicted, labels)
        self.log("train/loss", self.train_loss, on_step=True, on_epoch=True, prog_bar=True)
        self.log("train/acc", self.train_acc, on_step=True, on_epoch=True, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Any, Tensor], batch_idx: int) -> None:
        loss, predicted, labels = self.model_step(batch)
        self.val_loss(loss)
        self.val_acc(predicted, labels)
        self.log("val/loss", self.val_loss, on_step=False, on_epoch=True, prog_bar=True)
        self.log("val/acc", self.val_acc, on_step=False, on_epoch=True, prog_bar=True)

    def test_step(self, batch: tuple[Any, Tensor], batch_idx: int) -> None:
        loss, predicted, labels = self.model_step(batch)
        self.test_loss(loss)
        self.test_acc(predicted, labels)
        self.log("test/loss", self.test_loss, on_step=False, on_epoch=True, prog_bar=True)
        self.log("test/accuracy", self.test_acc, on_step=False, on_epoch=True, prog_bar=True)

    def configure_optimizers(self) -> Any:
        optimizer = self.recipe.build_optimizer(self.parameters())
        for group in optimizer.param_groups:
            group["fused"] = None  # torch's default
        schedule = self.recipe.build_schedule(optimizer, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def template_trainer(folder: str, **options: Any) -> Trainer:
    """The Trainer of a template: TensorBoard, checkpoints, the learning rate."""
    callbacks = [ModelCheckpoint(monitor="val/acc", mode="max", save_last=True), LearningRateMonitor("step")]
    callbacks += options.pop("callbacks", [])
    logger = TensorBoardLogger(folder, "template")
    return Trainer(logger=logger, callbacks=callbacks, num_sanity_val_steps=0, **options)


def main() -> None:
    data = FashionMNIST(root=sys.argv[1], batch_size=BATCH_SIZE, crop_padding=0)
    data.prepare_data()
    data.setup("fit")
    model = TemplateModule(SmallNet(WIDTH, recipe=RECIPE), data.num_classes)
    trainer = template_trainer("runs", max_epochs=EPOCHS, accelerator="cpu")
    trainer.fit(model, loader(data, "train"), loader(data, "val"))
    (scores,) = trainer.test(model, loader(data, "test"), ckpt_path="best")
    print(f"Test accuracy  {scores['test/accuracy']:.4f}")


if __name__ == "__main__":
    main()
