"""The options of each dataset: their help, their defaults, and the options that a dataset fixes."""

import inspect
from typing import Any

import pytest
from jsonargparse import ArgumentError, ArgumentParser

from src.cli.mistakes import find_mistake
from src.cli.parser import COMMAND_LINE
from src.data import DATASETS, ClassificationData

REQUIRED = {"ImageFolder": {"folder"}, "TextFiles": {"train"}}
BASE: dict[str, Any] = {"batch_size": 64, "num_workers": 0, "root": "data", "split_seed": 0}
IMAGES = BASE | {"scaling": "standardize", "flip": True}
ARRAYS = BASE | {"scaling": "standardize", "batch_size": 32}
TEXTS = BASE | {"vocab_size": 8192, "max_length": 256, "token_dropout": 0.0, "bucketing": True, "tokenizer": None}
FILES = {"train": None, "val": None, "test": None, "predict_file": None, "text_column": "text", "label_column": "label"}
CIFAR = IMAGES | {"crop_padding": 4, "val_fraction": 0.1}
SPLIT = {"val_fraction": 0.15, "test_fraction": 0.15}
DEFAULTS = {
    "Digits": IMAGES | SPLIT | {"crop_padding": 1, "flip": False, "covariate_shift": 0.0},
    "FashionMNIST": IMAGES | {"crop_padding": 2, "val_fraction": 1 / 12, "covariate_shift": 0.0},
    "CIFAR10": CIFAR,
    "CIFAR100": CIFAR,
    "ImageFolder": IMAGES | SPLIT | {"crop_padding": 4, "image_size": 64, "folder": None, "predict_dir": None},
    "Reuters8": TEXTS | {"val_fraction": 0.1},
    "Reuters52": TEXTS | {"val_fraction": 0.1},
    "Newsgroups20": TEXTS | {"val_fraction": 0.1},
    "TextFiles": TEXTS | FILES | {"val_fraction": 0.1, "test_fraction": 0.1},
    "BreastCancer": ARRAYS | {"val_fraction": 0.2, "test_fraction": 0.2},
    "Wine": ARRAYS | {"val_fraction": 0.2, "test_fraction": 0.2},
    "MovingDigits": ARRAYS | SPLIT | {"num_frames": 8, "clip_seed": 0},
}


def parser_of(name: str) -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(DATASETS[name])
    return parser


@pytest.mark.parametrize("name", DATASETS)
def test_each_option_has_its_default_and_a_help_text(name: str) -> None:
    parser = parser_of(name)
    assert parser.get_defaults().as_dict() == DEFAULTS[name]
    actions = {action.dest: action for action in parser._actions if action.dest in DEFAULTS[name]}
    assert {option for option, action in actions.items() if action.required} == REQUIRED.get(name, set())
    assert not [option for option, action in actions.items() if not action.help]


@pytest.mark.parametrize("name", DATASETS)
def test_what_a_dataset_fixes_is_refused_by_name(name: str) -> None:
    classes = [each for each in DATASETS[name].__mro__ if issubclass(each, ClassificationData)]
    parameters = [p for each in classes for p in inspect.signature(each).parameters.values()]
    fixed = {p.name for p in parameters if p.kind != p.VAR_KEYWORD} - DEFAULTS[name].keys()
    assert "class_names" in fixed
    for option in [*sorted(fixed), "options"]:
        with pytest.raises(ArgumentError):
            parser_of(name).parse_args([f"--{option}=3"])
        mistake = find_mistake([f"--data={name}", f"--data.{option}=3"], COMMAND_LINE)
        assert mistake is not None
        assert mistake.startswith(f"unknown option of {name} '{option}'. ")
