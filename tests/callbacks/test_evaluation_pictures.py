"""The confusion matrix, the worst mistakes and the embeddings match the samples."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from src.callbacks import EvaluationPictures, evaluation_pictures
from src.callbacks.evaluation_charts import Mistake, confusion_figure, mistakes_figure, mistakes_table
from src.data import Digits
from src.models import ImageClassifier
from tests.helpers.standin_data import make_text_file
from tests.helpers.train_command import QUIET, run_here
from tests.helpers.train_jobs import run_jobs

SHORT = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=8", "--data.batch_size=32", *QUIET]
DIGITS = ["--config=configs/digits.yaml", "--model.width=8", "--norm_statistics.every_n_steps=0", *SHORT]


def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Record the name and arguments of each later call of a function that draws."""
    calls: list[tuple[Any, ...]] = []
    for function in (confusion_figure, mistakes_figure, mistakes_table):

        def record(*arguments: Any, function: Any = function) -> Any:
            calls.append((function.__name__, *arguments))
            return function(*arguments)

        monkeypatch.setattr(evaluation_pictures, function.__name__, record)
    return calls


def predictions(folder: Path, split: str) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """The last weights' probabilities, the labels and the images of a split of digits, in the dataset's order."""
    data = Digits()
    data.setup("fit")
    model = ImageClassifier.load_from_checkpoint(folder / "runs/digits/version_0/checkpoints/last.ckpt").eval()
    images, labels = data.datasets[split].batch(np.arange(len(data.datasets[split])))
    with torch.no_grad():
        scaled, _ = data.on_after_batch_transfer((images, labels), 0)
        return model(scaled).softmax(-1), labels.numpy(), images.numpy()


def classifier() -> ImageClassifier:
    return ImageClassifier("resnet18", stem="small", width=8, in_channels=1, num_classes=10)


def trainer(folder: Path, *callbacks: Callback) -> Trainer:
    """A trainer as in a user's own program. It logs to `folder`."""
    options: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    options |= {"enable_checkpointing": False, "logger": TensorBoardLogger(folder, "", ""), "num_sanity_val_steps": 0}
    return Trainer(max_epochs=1, limit_train_batches=1, log_every_n_steps=1, callbacks=list(callbacks), **options)


def pictures(folder: Path) -> list[str]:
    return EventAccumulator(str(folder)).Reload().Tags()["images"]


def test_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = drawn(monkeypatch)
    run_here(monkeypatch, tmp_path, "fit", *DIGITS, "--evaluation_pictures.num_mistakes=5")
    assert [name for name, *_ in calls] == ["confusion_figure", "mistakes_figure"] * 2  # validation, then test
    probabilities, labels, images = predictions(tmp_path, "val")
    predicted = probabilities.argmax(-1).numpy()
    expected = np.zeros((10, 10), dtype=int)
    np.add.at(expected, (labels, predicted), 1)
    assert np.array_equal(calls[0][1], expected)
    assert calls[0][2] == [str(digit) for digit in range(10)]

    losses = -probabilities[torch.arange(len(labels)), torch.from_numpy(labels)].log().numpy()
    wrong = np.flatnonzero(predicted != labels)
    worst = wrong[np.argsort(-losses[wrong])][:5]
    _, shown, mistakes = calls[1]
    assert [mistake.row for mistake in mistakes] == worst.tolist()
    assert [(m.true, m.predicted) for m in mistakes] == [(str(labels[i]), str(predicted[i])) for i in worst]
    assert [m.loss for m in mistakes] == pytest.approx(losses[worst].tolist(), rel=1e-3)
    assert np.array_equal(shown, images[worst])

    version = tmp_path / "runs/digits/version_0"
    tags = pictures(version)
    assert tags == ["confusion/val", "mistakes/val", "confusion/test", "mistakes/test"]
    (table,) = version.rglob("metadata.tsv")
    with table.open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [(row["class"], row["predicted"]) for row in rows] == list(
        zip(map(str, labels), map(str, predicted), strict=True)
    )
    assert len(np.loadtxt(table.with_name("tensors.tsv"))) == len(labels)
    assert table.with_name("sprite.png").is_file()


def test_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each text is shown with its own label, though bucketing changes the order of the samples."""
    make_text_file(tmp_path / "train.csv", names=("ham", "spam"), per_class=40)
    calls = drawn(monkeypatch)
    sizes = ["--model.hidden_size=16", "--model.num_layers=1", "--model.num_heads=2", "--model.recipe.lr=1e-6"]
    data = ["--data=TextFiles", "--data.train=train.csv", "--data.vocab_size=256", "--data.val_fraction=0.4"]
    few = ["--data.batch_size=8", "--trainer.log_every_n_steps=1"]
    run_here(monkeypatch, tmp_path, "fit", "--model=TextClassifier", *sizes, *data, *SHORT, *few)
    tables = [call for call in calls if call[0] == "mistakes_table"]
    assert tables
    for _, texts, mistakes in tables:
        assert all(f"about{mistake.true}" in text for text, mistake in zip(texts, mistakes, strict=True))
        losses = [mistake.loss for mistake in mistakes]
        assert losses == sorted(losses, reverse=True)
    found = EventAccumulator(str(tmp_path / "runs/default/version_0")).Reload().Tags()["tensors"]
    assert "mistakes/val/text_summary" in found


def test_a_table_escapes_what_markdown_would_read() -> None:
    table = mistakes_table(["a|b\n<b>c</b>", "x" * 600], [Mistake(0, "ham", "spam", 0.75, 1.4)] * 2)
    lines = table.split("\n")
    assert lines[2] == "| ham | spam | 75% | a&#124;b &lt;b&gt;c&lt;/b&gt; |"
    assert lines[3].endswith("x" * 500 + " ... |")
    assert len(lines) == 4


def test_covariate_shift_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = drawn(monkeypatch)
    data = Digits(covariate_shift=0.2)
    trainer(tmp_path, EvaluationPictures(num_embeddings=0)).validate(classifier(), datamodule=data, verbose=False)
    _, shown, mistakes = next(call for call in calls if call[0] == "mistakes_figure")
    images, _ = data.datasets["val"].batch(np.array([mistake.row for mistake in mistakes]))
    assert shown.dtype == np.uint8
    assert np.array_equal(shown, np.minimum(images.numpy().astype(int) + 51, 255))


def test_validation_alone_is_always_drawn(tmp_path: Path) -> None:
    trainer(tmp_path, EvaluationPictures()).validate(classifier(), datamodule=Digits(), verbose=False)
    assert pictures(tmp_path) == ["confusion/val", "mistakes/val"]
    assert any(tmp_path.rglob("tensors.tsv"))


class TwoLoaders(Digits):
    """Has two validation dataloaders."""

    def val_dataloader(self) -> Any:
        return [super().val_dataloader(), super().val_dataloader()]


class TakesTwoLoaders(ImageClassifier):
    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        return self(batch[0])


def test_of_several_loaders_nothing_is_drawn(tmp_path: Path) -> None:
    model = TakesTwoLoaders("resnet18", stem="small", width=8, in_channels=1, num_classes=10)
    run, data = trainer(tmp_path, EvaluationPictures()), TwoLoaders()
    run.fit(model, datamodule=data)
    assert run.global_step == 1
    run.test(model, datamodule=data, verbose=False)
    assert pictures(tmp_path) == ["confusion/test", "mistakes/test"]
    assert not any(tmp_path.rglob("tensors.tsv"))


def test_no_hook_is_left_after_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, hooks = classifier(), []

    def fail(*args: Any) -> None:
        hooks.extend(hook for module in model.modules() for hook in module._forward_pre_hooks.values())
        raise RuntimeError("no such sample")

    monkeypatch.setattr(model, "validation_step", fail)
    with pytest.raises(RuntimeError, match="no such sample"):
        trainer(tmp_path, EvaluationPictures()).fit(model, datamodule=Digits())
    assert len(hooks) == 1
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_what_is_kept_for_the_projector_is_no_view() -> None:
    callback, tokens = EvaluationPictures(), torch.randn(4, 50, 8)
    callback._keep_features(torch.nn.Linear(8, 10), (tokens[:, 0],))
    (kept,) = callback._features
    assert torch.equal(kept, tokens[:, 0])
    assert kept.untyped_storage().nbytes() == 4 * 8 * 4


class TellsSamples(Callback):
    """Prints the number of samples in the confusion matrix."""

    def _tell(self, trainer: Trainer, split: str) -> None:
        (callback,) = (c for c in trainer.callbacks if isinstance(c, EvaluationPictures))  # type: ignore[attr-defined]
        print(f"{split} matrix of {callback._matrix.sum()}", flush=True)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._tell(trainer, "val")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._tell(trainer, "test")


def test_two_processes(tmp_path: Path) -> None:
    """With 115 and 114 validation samples, the first process draws all 229, and no process hangs."""
    splits = ["--data.val_fraction=0.1274", "--data.test_fraction=0.1502"]
    tells = "--trainer.callbacks=tests.callbacks.test_evaluation_pictures.TellsSamples"
    (done,) = run_jobs(tmp_path, [(2, ["fit", *DIGITS, *splits, tells])])
    assert done.codes == [0, 0], done.shown
    data = Digits(val_fraction=0.1274, test_fraction=0.1502)
    data.setup("fit")
    sizes = {split: len(data.datasets[split]) for split in ("val", "test")}
    assert sizes["val"] == 229
    assert all(f"{split} matrix of {size}\n" in done.shown for split, size in sizes.items()), done.shown
    tags = pictures(tmp_path / "runs/digits/version_0")
    assert tags == ["confusion/val", "mistakes/val", "confusion/test", "mistakes/test"]


@pytest.mark.parametrize(
    ("option", "kinds", "embeddings"),
    [
        ("num_mistakes=0", {"confusion"}, True),
        ("num_embeddings=0", {"confusion", "mistakes"}, False),
        ("enabled=false", set(), False),
    ],
)
def test_nothing_of_what_is_switched_off(
    option: str, kinds: set[str], embeddings: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_here(monkeypatch, tmp_path, "fit", *DIGITS, f"--evaluation_pictures.{option}")
    version = tmp_path / "runs/digits/version_0"
    assert {tag.split("/")[0] for tag in pictures(version)} == kinds
    assert any(version.rglob("tensors.tsv")) == embeddings
