"""Whether a checkpoint fits the model that a command asks for."""

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.parameter import is_lazy

from src.data import ClassificationData
from src.machine import versions
from src.models import MODELS, Classifier
from src.norms.spec import is_spec, to_text, without_none

SPEED_OPTIONS = {"channels_last", "compile"}
"""Hyperparameters that may differ from the checkpoint's: they change the speed, and numbers only by rounding."""

TRAINING_OPTIONS = {"recipe", "weights"}
"""Hyperparameters that may differ too where training is not resumed: evaluation does not depend on them."""


@dataclass(frozen=True)
class SavedModel:
    """The parts of a checkpoint that are compared with a command."""

    path: Path
    hyperparameters: Mapping[str, Any]
    shapes: Mapping[str, torch.Size]
    versions: Mapping[str, str]


def read_checkpoint(path: Path) -> SavedModel:
    """Read a checkpoint of train.py without loading its weights into memory.

    Raises:
        ValueError: the file is missing, damaged, or not a checkpoint of train.py.
    """
    if not path.is_file():
        raise ValueError(f"checkpoint '{path}' does not exist")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        hyperparameters = dict(checkpoint["hyper_parameters"])
        hyperparameters["_class_path"]  # a KeyError if another program wrote the checkpoint
        return SavedModel(path, hyperparameters, shapes(checkpoint["state_dict"]), checkpoint.get("versions", {}))
    except (pickle.UnpicklingError, RuntimeError, KeyError, TypeError, AttributeError, EOFError) as error:
        raise ValueError(f"'{path}' is not a checkpoint of train.py, or it is damaged") from error


def shapes(weights: Mapping[str, Any]) -> dict[str, torch.Size]:
    """The shapes of the tensors in a state dict, which may hold other values too."""
    return {name: value.shape for name, value in weights.items() if isinstance(value, torch.Tensor)}


def hyperparameter_differences(asked: Mapping[str, Any], saved: Mapping[str, Any], resuming: bool) -> list[str]:
    """A line for each hyperparameter that has to equal the checkpoint's and does not.

    Args:
        asked: the hyperparameters of the command's model.
        saved: the hyperparameters in the checkpoint.
        resuming: whether training is resumed; then the recipe must be the same, since the optimizer's state depends
            on it.
    """
    free = SPEED_OPTIONS if resuming else SPEED_OPTIONS | TRAINING_OPTIONS
    if asked.get("pretrained") and saved.get("pretrained"):
        free = free | {"pretrained"}  # the directory may have moved; its weights and its config are in the checkpoint
    lines = []
    for name in sorted((asked.keys() & saved.keys()) - free):
        lines += _differences(name.removeprefix("_"), asked[name], saved[name])
    return lines


def weight_differences(model: Classifier, saved: SavedModel) -> list[str]:
    """A line for each kind of difference between the weights of a model and of a checkpoint.

    If there are any, a last line names the versions that made the checkpoint and differ from the versions in use.
    """
    weights = model.state_dict()
    if not model.strict_loading or any(map(is_lazy, weights.values())):  # lazy weights have no shape before a batch
        return []
    own = shapes(weights)
    differences = {
        "weights that the model does not have": saved.shapes.keys() - own.keys(),
        "weights that the checkpoint does not have": own.keys() - saved.shapes.keys(),
        "weights of other shapes": {n for n in own.keys() & saved.shapes.keys() if own[n] != saved.shapes[n]},
    }
    lines = [f"{what}: {', '.join(sorted(n)[:5])}{' ...' * (len(n) > 5)}" for what, n in differences.items() if n]
    here = versions()
    other = [f"{name} {its} (here {here.get(name)})" for name, its in saved.versions.items() if here.get(name) != its]
    if lines and other:
        lines.append(f"it was made with {', '.join(other)}: install these versions, or train again")
    return lines


def check_modality(model: Classifier, data: ClassificationData) -> None:
    """Raise a ValueError where the model does not take the data's modality; it names the models that do."""
    modality = data.modality
    if modality is None or not model.modalities or modality in model.modalities:
        return
    fitting = ", ".join(name for name, each in MODELS.items() if modality in each.modalities)
    raise ValueError(
        f"{type(model).__name__} reads {' or '.join(model.modalities)}, and {type(data).__name__} gives {modality}: "
        f"take other data, or one of these models: {fitting}"
    )


def _differences(name: str, asked: Any, saved: Any) -> list[str]:
    # Options that are None do not count: an older checkpoint may not have them.
    if (is_spec(asked) and is_spec(saved) and without_none(asked) == without_none(saved)) or asked == saved:
        return []
    nested = isinstance(asked, Mapping) and isinstance(saved, Mapping)
    if nested and not is_spec(asked) and not is_spec(saved):
        keys = sorted(asked.keys() | saved.keys())
        return [line for k in keys for line in _differences(f"{name}.{k}", asked.get(k), saved.get(k))]
    return [f"{name}: the checkpoint has {_shown(saved)}, the command asks for {_shown(asked)}"]


def _shown(value: Any) -> str:
    if is_spec(value):
        return to_text(without_none(value))
    return value.rsplit(".", 1)[-1] if isinstance(value, str) and value.startswith("src.") else repr(value)
