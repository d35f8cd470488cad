"""The data in Lightning's trainer: epochs, stages, overfitting, prediction."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from src.data import Digits, TextFiles
from tests.helpers.standin_data import make_text_file


class Recorder(LightningModule):
    """Records the images and labels of each stage."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(64, 10)
        self.seen: dict[str, list[tuple[int, torch.Tensor, torch.Tensor]]] = {
            "train": [],
            "val": [],
            "test": [],
            "predict": [],
        }

    def record(self, stage: str, batch: Any) -> torch.Tensor:
        images, labels = batch
        self.seen[stage].append((self.current_epoch, images, labels))
        return torch.nn.functional.cross_entropy(self.layer(images.flatten(1)), labels)

    def training_step(self, batch: Any) -> torch.Tensor:
        return self.record("train", batch)

    def validation_step(self, batch: Any) -> None:
        self.record("val", batch)

    def test_step(self, batch: Any) -> None:
        self.record("test", batch)

    def predict_step(self, batch: Any) -> torch.Tensor:
        self.record("predict", batch)
        return batch[1]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


@pytest.fixture
def trainer_of(tmp_path: Path) -> Callable[..., Trainer]:
    def make(**changes: Any) -> Trainer:
        quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        options = quiet | {"enable_model_summary": False, "accelerator": "cpu", "default_root_dir": tmp_path}
        return Trainer(**(options | {"use_distributed_sampler": False, "max_epochs": 2} | changes))

    return make


def epoch_labels(model: Recorder, epoch: int) -> list[list[int]]:
    return [labels.tolist() for at, _, labels in model.seen["train"] if at == epoch]


def test_each_epoch_has_its_own_order(trainer_of: Callable[..., Trainer]) -> None:
    model = Recorder()
    trainer_of().fit(model, datamodule=Digits())
    first, second = epoch_labels(model, 0), epoch_labels(model, 1)
    assert len(first) == len(second) == 19
    assert first != second


def test_only_training_is_augmented(trainer_of: Callable[..., Trainer]) -> None:
    data, model = Digits(crop_padding=2, flip=True), Recorder()
    trainer_of(max_epochs=1).fit(model, datamodule=data)
    trainer_of().test(model, datamodule=data, verbose=False)
    data.trainer = None

    def plain(split: str) -> torch.Tensor:
        batches = [data.on_after_batch_transfer(batch, 0)[0] for batch in getattr(data, f"{split}_dataloader")()]
        return torch.cat(batches)

    # The sanity check takes 2 validation batches; then validation takes the whole split.
    seen = {stage: torch.cat([images for _, images, _ in model.seen[stage]]) for stage in ("train", "val", "test")}
    torch.testing.assert_close(seen["val"], torch.cat([plain("val")[:128], plain("val")]))
    torch.testing.assert_close(seen["test"], plain("test"))
    changed = (seen["train"] != plain("train")).flatten(1).any(1)
    assert changed.float().mean() > 0.9


def test_overfitting_sees_the_same_batches_in_each_epoch(trainer_of: Callable[..., Trainer]) -> None:
    model = Recorder()
    trainer_of(overfit_batches=2).fit(model, datamodule=Digits())
    assert epoch_labels(model, 0) == epoch_labels(model, 1)
    assert [len(labels) for labels in epoch_labels(model, 0)] == [64, 64]
    # The batch has all classes, as in training.
    assert len(set(epoch_labels(model, 0)[0])) == 10


def test_prediction_keeps_the_order_and_takes_the_run_s_precision(trainer_of: Callable[..., Trainer]) -> None:
    data, model = Digits(), Recorder()
    trainer_of(precision="bf16-true").predict(model, datamodule=data)
    seen = torch.cat([labels for _, _, labels in model.seen["predict"]])
    assert seen.tolist() == data.datasets["test"].labels.tolist()
    assert model.seen["predict"][0][1].dtype == torch.bfloat16


class TextRecorder(LightningModule):
    """Records the token ids in training, and counts the tokens in validation."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.train_ids: list[list[list[int]]] = [[], []]
        self.val_tokens = 0

    def training_step(self, batch: Any) -> torch.Tensor:
        self.train_ids[self.current_epoch].extend(batch[0]["input_ids"].tolist())
        return self.weight * 0

    def validation_step(self, batch: Any) -> None:
        self.val_tokens += int(batch[0]["attention_mask"].sum())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def test_only_training_drops_tokens_others_in_each_epoch(trainer_of: Callable[..., Trainer], tmp_path: Path) -> None:
    file = str(make_text_file(tmp_path / "train.csv"))

    def fitted() -> tuple[TextFiles, TextRecorder]:
        data = TextFiles(train=file, root=str(tmp_path), vocab_size=256, token_dropout=0.5, batch_size=32)
        model = TextRecorder()
        trainer_of(num_sanity_val_steps=0).fit(model, datamodule=data)
        return data, model

    data, model = fitted()
    # One batch holds the whole training split.
    first, second = ({tuple(row) for row in rows} for rows in model.train_ids)
    assert len(first) == len(second) == 32
    assert len(first & second) < 16
    assert fitted()[1].train_ids == model.train_ids
    lengths = {split: data.datasets[split].lengths for split in ("train", "val")}
    kept = sum(token != data.pad_token_id for row in model.train_ids[0] for token in row)
    assert kept == sum(length - (length - 2) // 2 for length in lengths["train"])
    assert model.val_tokens == 2 * lengths["val"].sum()
