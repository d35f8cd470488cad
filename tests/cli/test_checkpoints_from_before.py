"""Checkpoints and configurations of an earlier version, word for word, from before modules moved."""

import importlib
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
import yaml

from src.cli.checkpoint_match import hyperparameter_differences, read_checkpoint, weight_differences
from src.compare.fit_options import FitParser
from src.data import DATASETS
from src.models import MLPClassifier
from src.norms import BatchNorm1d, families

RECIPE = {
    "optimizer": "sgd",
    "lr": 0.1,
    "momentum": 0.9,
    "weight_decay": 0.0005,
    "schedule": "cosine",
    "warmup": 0.1,
    "label_smoothing": 0.0,
}
HYPERPARAMETERS = {
    "_class_path": "src.models.mlp.MLPClassifier",
    "_instantiator": "lightning.pytorch.cli.instantiate_module",
    "norm": {
        "class_path": "src.norms.families.BatchNorm",
        "init_args": {"eps": None, "momentum": 0.2, "masked": None, "track_running_stats": None},
    },
    "hidden_size": 3,
    "num_layers": 1,
    "activation": "relu",
    "init_scale": 1.0,
    "dropout": 0.0,
    "recipe": RECIPE,
    "num_classes": 2,
    "in_features": 4,
}
SHAPES: dict[str, tuple[int, ...]] = {
    "backbone.linear1.weight": (3, 4),
    "backbone.linear1.bias": (3,),
    "backbone.norm1.weight": (3,),
    "backbone.norm1.bias": (3,),
    "backbone.norm1.running_mean": (3,),
    "backbone.norm1.running_var": (3,),
    "backbone.norm1.num_batches_tracked": (),
    "backbone.classifier.weight": (2, 3),
    "backbone.classifier.bias": (2,),
}
# The earlier version computed these numbers with the weights below, from cos(0), ..., cos(7) as two samples.
IN_EVAL = [[1.6511468887329102, 1.8613897562026978], [2.777876377105713, 2.922747850418091]]
IN_TRAINING = [[1.38356351852417, 1.550167441368103], [2.4022302627563477, 2.6008365154266357]]
RUNNING_VAR = [0.22476106882095337, 0.620093047618866, 1.013769507408142]

CLASS_PATHS = {
    "model": ["ImageClassifier", "TextClassifier", "MLPClassifier", "VolumeClassifier", "LSTMClassifier"],
    "norm": [
        *("BatchNorm", "LayerNorm", "RMSNorm", "GroupNorm", "InstanceNorm", "DynamicTanh", "Identity"),
        *("TorchBatchNorm", "TorchLayerNorm", "TorchRMSNorm", "TorchGroupNorm", "TorchInstanceNorm"),
    ],
    "data": [
        *("Digits", "FashionMNIST", "CIFAR10", "CIFAR100", "ImageFolder", "Reuters8", "Reuters52", "Newsgroups20"),
        *("TextFiles", "BreastCancer", "Wine", "MovingDigits"),
    ],
}
CONFIG = """
model:
  class_path: src.models.ImageClassifier
  init_args:
    backbone: resnet18
    norm: {class_path: src.norms.families.GroupNorm, init_args: {num_groups: 4, eps: null}}
    stem: small
    width: 8
    weights: null
    channels_last: false
    recipe: {optimizer: sgd, lr: 0.03, momentum: 0.9, weight_decay: 0.0005, schedule: one_cycle, warmup: 0.3,
      label_smoothing: 0.1}
    compile: false
data:
  class_path: src.data.Digits
  init_args:
    scaling: standardize
    crop_padding: 1
    flip: false
    batch_size: 64
    num_workers: 0
    root: data
    split_seed: 0
    val_fraction: 0.15
    test_fraction: 0.15
    covariate_shift: 0.0
"""


def checkpoint(folder: Path) -> Path:
    weights = {
        name: (torch.arange(torch.Size(shape).numel()) + place + 1.0).sin().abs().view(shape)
        if shape
        else torch.tensor(7)
        for place, (name, shape) in enumerate(SHAPES.items())
    }
    path = folder / "last.ckpt"
    parts = {
        "state_dict": weights,
        "hyper_parameters": HYPERPARAMETERS,
        "pytorch-lightning_version": lightning.__version__,
    }
    torch.save(parts, path)
    return path


def test_a_checkpoint_loads_and_computes_what_it_did(tmp_path: Path) -> None:
    model = MLPClassifier.load_from_checkpoint(checkpoint(tmp_path), weights_only=True)
    assert type(model.backbone.norm1) is BatchNorm1d
    x = torch.arange(8.0).cos().view(2, 4)
    torch.testing.assert_close(model.eval()(x), torch.tensor(IN_EVAL))
    torch.testing.assert_close(model.train()(x), torch.tensor(IN_TRAINING))
    torch.testing.assert_close(model.backbone.norm1.running_var, torch.tensor(RUNNING_VAR))
    assert list(model.state_dict()) == list(SHAPES)


def test_a_command_takes_it(tmp_path: Path) -> None:
    saved = read_checkpoint(checkpoint(tmp_path))
    norm = families.BatchNorm(momentum=0.2)
    model = MLPClassifier(norm=norm, hidden_size=3, num_layers=1, num_classes=2, in_features=4)
    assert dict(model.hparams) == HYPERPARAMETERS
    assert hyperparameter_differences(model.hparams, saved.hyperparameters, resuming=True) == []
    assert weight_differences(model, saved) == []


def test_classes_are_found_at_their_addresses() -> None:
    modules = {"model": "src.models", "norm": "src.norms.families", "data": "src.data"}
    for part, names in CLASS_PATHS.items():
        module: Any = __import__(modules[part], fromlist=names)
        assert [getattr(module, name).__name__ for name in names] == names


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("src.data.digits.Digits", "Digits"),
        ("src.data.tabular.Wine", "Wine"),
        ("src.data.news.Reuters8", "Reuters8"),
        ("src.data.cifar.CIFAR100", "CIFAR100"),
    ],
)
def test_a_dataset_is_found_in_the_module_that_had_it(path: str, name: str) -> None:
    options = FitParser().resolve(["--config=configs/digits.yaml", f"--data={path}"])
    assert options["data"]["class_path"] == path
    assert getattr(importlib.import_module(path.rpartition(".")[0]), name) is DATASETS[name]


def test_a_saved_configuration_comes_to_the_same(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    options, written = FitParser().resolve([f"--config={path}"]), yaml.safe_load(CONFIG)
    assert options["data"] == written["data"]
    derived = {"num_classes", "in_channels"}
    options["model"]["init_args"] = {k: v for k, v in options["model"]["init_args"].items() if k not in derived}
    assert options["model"] == written["model"]
