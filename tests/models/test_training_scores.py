"""The scores logged in training are correct, and a step that is not logged never waits for the device."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import src.callbacks.progress
from src.callbacks import ProgressBar, SamplesPerSecond
from src.data import Digits
from src.models import Classifier, Recipe

STEPS = 10


class Linear(Classifier):
    """Records the logits and labels of each training batch."""

    def __init__(self) -> None:
        super().__init__(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), 10, None, Recipe(lr=0.01), False)
        self.seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, images: Tensor) -> Tensor:
        return self.backbone(images)

    def training_step(self, batch: tuple[Any, Tensor], batch_idx: int) -> Tensor:
        self.seen.append((self(batch[0]).detach(), batch[1]))
        return super().training_step(batch, batch_idx)

    def mean_scores(self, batches: slice) -> tuple[float, float]:
        """Loss and accuracy over all samples of the given batches."""
        logits, labels = (torch.cat(parts) for parts in zip(*self.seen[batches], strict=True))
        accuracy = (logits.argmax(1) == labels).double().mean()
        return nn.functional.cross_entropy(logits.double(), labels).item(), accuracy.item()


class Kept(Logger):
    """Records the step and the value of each logged metric, by name."""

    name, version = "kept", 0

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, list[tuple[int, float]]] = {}

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        assert step is not None
        for name, value in metrics.items():
            self.values.setdefault(name, []).append((step, value))

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass


def fit(
    tmp_path: Path, *callbacks: Callback, ckpt_path: Path | None = None, **options: Any
) -> tuple[Linear, dict[str, list[tuple[int, float]]]]:
    """Train for two epochs of STEPS batches."""
    torch.manual_seed(0)
    model, logger = Linear(), Kept()
    always = {"max_epochs": 2, "limit_train_batches": STEPS, "num_sanity_val_steps": 0, "logger": logger}
    always |= {"use_distributed_sampler": False, "enable_model_summary": False, "enable_checkpointing": False}
    always |= {"accelerator": "cpu", "enable_progress_bar": bool(callbacks), "default_root_dir": tmp_path}
    trainer = Trainer(callbacks=list(callbacks), **(always | options))
    trainer.fit(model, datamodule=Digits(batch_size=16), ckpt_path=ckpt_path, weights_only=True)
    return model, logger.values


@pytest.mark.filterwarnings("ignore:The number of training batches")  # there are fewer than log_every_n_steps
def test_an_epochs_scores_are_of_all_its_samples(tmp_path: Path) -> None:
    model, logged = fit(tmp_path, log_every_n_steps=2 * STEPS)
    for epoch in (0, 1):
        loss, accuracy = model.mean_scores(slice(epoch * STEPS, (epoch + 1) * STEPS))
        assert logged["train/loss_epoch"][epoch][1] == pytest.approx(loss, rel=1e-6)
        assert logged["train/accuracy"][epoch][1] == pytest.approx(accuracy, rel=1e-6)
    assert [step for step, _ in logged["train/loss"]] == [2 * STEPS - 1]


def test_each_logged_step_has_its_own_loss(tmp_path: Path) -> None:
    model, logged = fit(tmp_path, log_every_n_steps=1)
    losses = [model.mean_scores(slice(batch, batch + 1))[0] for batch in range(2 * STEPS)]
    assert [step for step, _ in logged["train/loss"]] == list(range(2 * STEPS))
    assert [value for _, value in logged["train/loss"]] == pytest.approx(losses, rel=1e-6)
    _, every_fourth = fit(tmp_path, log_every_n_steps=4)
    assert every_fourth["train/loss"] == logged["train/loss"][3::4]


def test_accumulated_gradients_change_no_score(tmp_path: Path) -> None:
    """With two batches a step, a logged step has its last batch's loss, and an epoch's scores are over all batches."""
    model, logged = fit(tmp_path, SamplesPerSecond(), accumulate_grad_batches=2, log_every_n_steps=2)
    assert len(model.seen) == 2 * STEPS
    assert [value for _, value in logged["train/accuracy"]] == pytest.approx(
        [model.mean_scores(slice(start, start + STEPS))[1] for start in (0, STEPS)], rel=1e-6
    )
    last_batches = [model.mean_scores(slice(batch, batch + 1))[0] for batch in range(3, 2 * STEPS, 4)]
    assert [value for _, value in logged["train/loss"]] == pytest.approx(last_batches, rel=1e-6)
    assert [step for step, _ in logged["train/samples_per_second"]] == [1, 3, 5, 7, 9]


@pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path.")  # the saving callback is absent
def test_a_run_that_goes_on_has_ended_no_step_yet(tmp_path: Path) -> None:
    """The first batch of a resumed run is half a step. It logs no speed, though the step before was logged."""
    saving = ModelCheckpoint(tmp_path, "last")
    options: dict[str, Any] = {"accumulate_grad_batches": 2, "log_every_n_steps": STEPS // 2}
    fit(tmp_path, saving, max_epochs=1, enable_checkpointing=True, **options)
    _, logged = fit(tmp_path, ProgressBar(), SamplesPerSecond(), ckpt_path=tmp_path / "last.ckpt", **options)
    assert [step for step, _ in logged["train/samples_per_second"]] == [STEPS - 1]
    assert [step for step, _ in logged["train/seconds_per_step"]] == [STEPS - 1]


class Waits(TorchDispatchMode):
    """Records the training steps in which code reads a tensor's value (`item`, `float`, `bool`, `tolist`)."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: set[int] = set()
        self.trainer: Trainer | None = None  # set only during a training epoch
        self.step = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and self.trainer and self.trainer.training:
            self.steps.add(self.step)
        return func(*args, **(kwargs or {}))


class Steps(Callback):
    """Sets the current step of `Waits`. A step lasts until the next step or validation begins."""

    def __init__(self, waits: Waits):
        self.waits = waits

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.waits.trainer, self.waits.step = trainer, trainer.global_step + 1

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.waits.trainer = None


def test_the_progress_bar_shows_the_last_logged_loss(tmp_path: Path) -> None:
    bar = ProgressBar()
    _, logged = fit(tmp_path, bar, log_every_n_steps=8)
    shown = bar.get_metrics(bar.trainer, bar.trainer.lightning_module)
    assert shown["train/loss"] == logged["train/loss"][-1][1]
    assert shown["val/accuracy"] == pytest.approx(logged["val/accuracy"][-1][1])


def test_only_logged_steps_wait_for_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(src.callbacks.progress, "REFRESHES_PER_SECOND", 1e9)  # the bar refreshes at each batch
    with Waits() as waits:
        fit(tmp_path, ProgressBar(), SamplesPerSecond(), Steps(waits), log_every_n_steps=4)
    assert waits.steps == {4, 8, 12, 16, 20}
