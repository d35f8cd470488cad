"""A small network with one norm, its data, and training with callbacks."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader

from src.callbacks.norm_probe import NormProbe, find_norms
from src.norms import BatchNorm1d

Batch = tuple[Any, Tensor]


class Net(LightningModule):
    """A layer, a norm, an activation and a classifier, on `(N, 3)`."""

    def __init__(self, norm: nn.Module | None = None, lr: float = 0.1, compile: bool = False, repeat: bool = False):
        super().__init__()
        norm = BatchNorm1d(4) if norm is None else norm
        layers = [nn.Linear(3, 4), norm, nn.ReLU(inplace=True), nn.Dropout(0.2), nn.Linear(4, 2)]
        self.backbone = nn.Sequential(*layers)
        self.lr = lr
        self.repeat = repeat
        if compile:
            self.backbone.compile(backend="eager")

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.backbone, x, use_reentrant=False) if self.repeat else self.backbone(x)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


def batches(count: int = 6, size: int = 16, scale: float = 1.0) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    return [
        (scale * torch.randn(size, 3, generator=generator) + 1, torch.randint(2, (size,), generator=generator))
        for _ in range(count)
    ]


def fit(
    model: LightningModule, data: list[Batch], *callbacks: Callback, folder: Path | None = None, **options: Any
) -> None:
    logger = TensorBoardLogger(folder, "run", "0") if folder else False
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=logger,
        callbacks=list(callbacks),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        **options,
    )
    trainer.fit(model, DataLoader(data, batch_size=None))  # type: ignore[arg-type]


def events(folder: Path) -> EventAccumulator:
    """The TensorBoard events that `fit` left in a folder."""
    return EventAccumulator(str(folder / "run/0"), size_guidance={"images": 0}).Reload()


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The scalars of norms that `fit` left in a folder: by tag, steps and values."""
    found = events(folder)
    tags = [tag for tag in found.Tags()["scalars"] if tag.startswith("norms/")]
    return {tag.removeprefix("norms/"): [(e.step, e.value) for e in found.Scalars(tag)] for tag in tags}


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The messages of callbacks in the log."""
    return [record.getMessage() for record in caplog.records if record.name.startswith("src.callbacks")]


def measure(model: nn.Module, *inputs: Tensor) -> dict[tuple[str, str], float]:
    """The measures of the norms of a model in one step."""
    probe = NormProbe(model, find_norms(model))
    model(*inputs).square().sum().backward()
    probe.measure_parameters()
    probe.remove()
    return probe.read()
