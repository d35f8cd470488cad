"""The usual Lightning template: PIL transforms for each sample, metrics' `forward`, and a log at each step.

`python -m benchmarks.template ROOT` trains `SmallNet` on Fashion-MNIST with it. `train.py` trains the same with `OURS`.
"""

import sys
from dataclasses import asdict
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy
from torchvision import transforms

from src.data import ClassificationData, FashionMNIST, ImageData
from src.models import Classifier, Recipe
from src.norms import NormFamily

NUM_WORKERS = 2
WIDTH, EPOCHS, BATCH_SIZE = 32, 5, 128
RECIPE = Recipe(lr=0.2, schedule="one_cycle", warmup=0.25)
OURS = [
    *["--data=FashionMNIST", f"--data.batch_size={BATCH_SIZE}", "--data.crop_padding=0"],
    *["--model=benchmarks.template.SmallNet", f"--model.width={WIDTH}", "--model.norm=BatchNorm"],
    *[f"--model.recipe.{name}={value}" for name, value in asdict(RECIPE).items()],
    *[f"--trainer.max_epochs={EPOCHS}", "--trainer.accelerator=cpu"],
]


class SmallNet(Classifier):
    """Classifies images `(B, in_channels, H, W)` with three convolutions, a norm after each.

    Args:
        width: channels of the first convolution; the others have two and four times as many.
        norm: the norm that replaces torch's BatchNorm; null leaves BatchNorm in place.
        recipe: loss, optimizer and schedule.
        compile: run the backbone through torch.compile.
        num_classes: classes; the CLI takes it from the data.
        in_channels: channels of an image; the CLI takes it from the data.
    """

    def __init__(
        self,
        width: int = 16,
        norm: NormFamily | None = None,
        recipe: Recipe = Recipe(),  # noqa: B008 (frozen)
        compile: bool = False,
        num_classes: int = 10,
        in_channels: int = 1,
    ) -> None:
        layers: list[nn.Module] = []
        for channels in (width, 2 * width, 4 * width):
            layers += [nn.Conv2d(in_channels if not layers else channels // 2, channels, 3, 2, 1, bias=False)]
            layers += [nn.BatchNorm2d(channels), nn.ReLU()]
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, num_classes)]
        super().__init__(nn.Sequential(*layers, *head), num_classes, norm, recipe, compile)

    def forward(self, images: Tensor) -> Tensor:
        return self.backbone(images)


class PILImages(Dataset[tuple[Tensor, int]]):
    """The images of a split, each transformed through PIL on its own."""

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
    """The texts of a split, each as the ids of its tokens."""

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
    """A loader of a split that reads sample by sample in worker processes."""
    options: dict[str, Any] = {"batch_size": data.batch_size, "num_workers": NUM_WORKERS, "shuffle": split == "train"}
    if isinstance(data, ImageData):
        return DataLoader(PILImages(data, split), drop_last=split == "train", **options)
    return DataLoader(TokenLists(data, split), drop_last=split == "train", collate_fn=collate_texts, **options)


class TemplateModule(LightningModule):
    """A template's steps around the network, loss, optimizer and schedule of a classifier."""

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
    """A template's Trainer: it logs to TensorBoard, saves checkpoints and monitors the learning rate."""
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
