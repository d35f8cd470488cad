"""A checkpoint keeps the arguments of a model's constructor as plain values."""

import io
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer

from src.models import MLPClassifier, Recipe
from src.norms.families import LayerNorm


class Deep(MLPClassifier):
    """A subclass with one argument of its own. It passes the other arguments on."""

    def __init__(self, depth: int = 3, **options: Any) -> None:
        super().__init__(num_layers=depth, **options)


class Teacher(LightningModule):
    """Another module whose constructor builds a classifier."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.model = MLPClassifier(hidden_size=width, norm=LayerNorm(eps=0.1))


def test_a_subclass_keeps_its_own_arguments_and_reloads(tmp_path: Path) -> None:
    model = Deep(2, hidden_size=8, recipe=Recipe(lr=0.5))
    assert model.hparams["_class_path"] == f"{__name__}.Deep"
    own = {name: value for name, value in model.hparams.items() if not name.startswith("_")}
    assert own.pop("recipe")["lr"] == 0.5
    assert own == {"depth": 2, "hidden_size": 8}
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    again = Deep.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    assert (again.hparams["depth"], again.hparams["hidden_size"]) == (2, 8)
    assert [*again.state_dict()] == [*model.state_dict()]


def test_the_arguments_are_not_those_of_a_module_that_builds_the_model() -> None:
    hyperparameters = Teacher(8).model.hparams
    assert "width" not in hyperparameters
    assert hyperparameters["hidden_size"] == 8
    assert hyperparameters["norm"]["init_args"] == {"eps": 0.1}
    torch.save(dict(hyperparameters), buffer := io.BytesIO())
    buffer.seek(0)
    assert torch.load(buffer, weights_only=True) == hyperparameters
