"""train.py's parser. A user's mistake gives one line: what was given, what was expected, and how to mend it."""

import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from jsonargparse import ArgumentError, add_instantiator
from lightning import Trainer
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from src.callbacks import EvaluationPictures, NormStatistics
from src.cli.mistakes import CommandLine, find_mistake, one_line
from src.data import DATASETS, ClassificationData
from src.launch.process import local_rank, yield_to_others
from src.models import MODELS, Classifier, Recipe
from src.norms import NORMS, NormFamily

FROM_DATA = ("num_classes", "in_channels", "in_features", "vocab_size", "max_length", "pad_token_id")
"""Arguments of the models whose values the CLI takes from the data."""

COMMAND_LINE = CommandLine(
    types={
        "config": Any,
        "seed_everything": bool | int,
        "trainer": Trainer,
        "model": Classifier,
        "data": ClassificationData,
        "experiment": str,
        "timeout": float,
        "ckpt_path": str | None,
        "norm_statistics": NormStatistics,
        "evaluation_pictures": EvaluationPictures,
        "verbose": bool,
    },
    catalogues={
        NormFamily: ("norm", NORMS),
        Classifier: ("model", MODELS),
        ClassificationData: ("dataset", DATASETS),
    },
    config_option="config",
    derived={Classifier: FROM_DATA},
    help="python train.py fit --help",
)


def fail(message: str) -> NoReturn:
    """End the program after a user's mistake: print one message without a traceback, and exit with code 2."""
    if local_rank() > 0:
        yield_to_others()  # most mistakes end every process of a run, and only one of them should print
    print(f"error: {message}", file=sys.stderr, flush=True)
    raise SystemExit(2)


def failing(build: Callable[..., Any]) -> Callable[..., Any]:
    """Make `build`, which constructs an object, end the program if the object refuses its arguments.

    jsonargparse would hide such an error among the errors of the other types that the option may have.
    """

    @functools.wraps(build)
    def built(*args: Any, **kwargs: Any) -> Any:
        try:
            return build(*args, **kwargs)
        except (ValueError, OSError, MisconfigurationException) as error:
            fail(str(error))

    return built


def _construct(class_type: type, *args: Any, **kwargs: Any) -> Any:
    return class_type(*args, **kwargs)


class TrainParser(LightningArgumentParser):
    """LightningCLI's parser without abbreviations; it raises an ArgumentError where it refuses a command."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "allow_abbrev": False, "exit_on_error": False})
        for base in (NormFamily, Recipe):
            add_instantiator(failing(_construct), base)

    def add_instantiator(self, instantiator: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Add a function that constructs models or data; the program ends if the object refuses its arguments."""
        super().add_instantiator(failing(instantiator), *args, **kwargs)


@contextmanager
def failing_on_mistakes(arguments: Sequence[str], line: CommandLine = COMMAND_LINE) -> Iterator[None]:
    """End the program if a parser refuses `arguments` inside the `with` block."""
    try:
        yield
    except ArgumentError as error:
        fail(find_mistake(arguments, line) or one_line(str(error)))
