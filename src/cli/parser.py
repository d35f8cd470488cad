"""Command-line errors that say what came, what was expected and how to mend it."""

import re
import sys
from collections.abc import Mapping
from difflib import get_close_matches
from inspect import signature
from typing import Any, NoReturn

from lightning import Trainer
from lightning.pytorch.cli import LightningArgumentParser

from src.callbacks import EvaluationPictures, NormStatistics
from src.data import DATASETS
from src.failure import local_rank, yield_to_others
from src.models import MODELS, Recipe
from src.models.names import unknown_name
from src.norms import NORMS

FROM_DATA = ("num_classes", "in_channels", "in_features", "vocab_size", "max_length", "pad_token_id")
"""Arguments of the models that the CLI takes from the data."""

CATALOGUES: dict[str, tuple[str, Mapping[str, Any]]] = {
    "NormFamily": ("norm", NORMS),
    "Classifier": ("model", MODELS),
    "ClassificationData": ("dataset", DATASETS),
}


def fail(message: str) -> NoReturn:
    """End the program as a user's mistake does: one message, exit code 2, no traceback."""
    if local_rank() > 0:
        yield_to_others()  # most often each process of a run comes here, and the first one speaks
    print(f"error: {message}", file=sys.stderr, flush=True)
    raise SystemExit(2)


def explain(message: str) -> str:
    """jsonargparse's message about a value, in the words of someone who typed it; else the message as it is."""
    if found := re.search(r"[Uu]nrecognized arguments: --([^\s=]+)|does not accept option '([\w.]+)'", message):
        return unknown_option(found[1] or found[2])
    unknown = r"\.(\w+)'>(?:, <class 'NoneType'>)?\]\s+Errors:\s+- Expected a dot import path string: (\S+)"
    if (found := re.search(unknown, message)) and found[1] in CATALOGUES:
        kind, catalogue = CATALOGUES[found[1]]
        return unknown_name(kind, found[2], catalogue)
    if found := re.search(r"class_path '[\w.]*?(\w+)':\s+Option '([\w.]+)' is not accepted", message):
        for _, catalogue in CATALOGUES.values():
            if found[1] in catalogue:
                return unknown_name(f"option of {found[1]}", found[2], _options(catalogue[found[1]]))
    # A plain type; the same with null allowed; an error that a class raised about its arguments.
    plain = r"Expected a (?:<class '(\w+)'>|typing\.Literal\[(.*)\])\. Got value: (.*)"
    if found := re.search(rf'Parser key "([\w.]+)":\s+{plain}', message):
        return f"{found[1]}: expected {found[2] or 'one of ' + found[3]}, got '{found[4]}'"
    optional = r"\[<class '(\w+)'>, <class 'NoneType'>\](?s:.*)Given value: (.*)"
    if found := re.search(r'Parser key "([\w.]+)":\s+Does not validate[^\n]*\s+Subtypes: ' + optional, message):
        return f"{found[1]}: expected {found[2]} or null, got '{found[3]}'"
    if re.search(r"No supported gpu backend|can not run on your system since the accelerator", message):
        return "there is no accelerator of the kind asked for: take --trainer.accelerator=auto (what there is), or cpu"
    if found := re.search(r"You requested gpu: \[(.*)\]\s+But your machine only has: \[(.*)\]", message):
        return (
            f"the command asks for the GPUs {found[1]}, and there are {found[2]}: lower --trainer.devices (auto: all)"
        )
    innermost = message[message.rfind("Errors:") :]
    if found := re.match(r"Errors:\n\s+- (.*?)\n\s+- Expected a <class 'NoneType'>\n", innermost, re.DOTALL):
        return found[1]
    return message


def _options(named: Any) -> list[str]:
    constructor = named if isinstance(named, type) else type(named)
    return [name for name in signature(constructor).parameters if name not in FROM_DATA]


def unknown_option(name: str) -> str:
    """`unknown option 'trainer.max_epoch'. Did you mean 'trainer.max_epochs'?`"""
    known = [f"trainer.{option}" for option in signature(Trainer).parameters]
    known += [f"model.recipe.{option}" for option in signature(Recipe).parameters]
    for key, callback in (("norm_statistics", NormStatistics), ("evaluation_pictures", EvaluationPictures)):
        known += [f"{key}.{option}" for option in signature(callback).parameters]
    known += ["config", "seed_everything", "trainer", "model", "data", "experiment", "timeout", "ckpt_path"]
    nearest = get_close_matches(name, known, n=1)
    hint = f" Did you mean '{nearest[0]}'?" if nearest else ""
    return f"unknown option '{name}'.{hint} All options: python train.py fit --help"


class Parser(LightningArgumentParser):
    """LightningCLI's parser without abbreviations, and with errors of a few lines."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "allow_abbrev": False})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:
            super().error(message, ex)
        fail(explain(message))
