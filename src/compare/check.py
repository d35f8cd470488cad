"""The runs' options, checked and completed by train.py's own parser before anything runs."""

import re
from collections.abc import Sequence
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.pytorch.cli import ArgsType, LightningArgumentParser

from src.cli import TrainCLI


class FitParser(TrainCLI):
    """train.py's command line up to its parser: nothing is built, and nothing runs."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        return {"fit": TrainCLI.subcommands()["fit"]}

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        self.config = Namespace(subcommand="fit")

    def _set_seed(self) -> None: ...

    def instantiate_classes(self) -> None: ...

    def _run_subcommand(self, subcommand: str) -> None: ...

    def resolve(self, flags: Sequence[str]) -> dict[str, Any]:
        """All options of `train.py fit FLAGS`, without those that say where the run lies.

        A mistake ends the program as it ends train.py.
        """
        parser = self._subcommand_parsers["fit"]
        config = parser.parse_args(list(flags))
        dumped = parser.dump(config, skip_link_targets=False, skip_none=False, format="yaml")
        options: dict[str, Any] = yaml.safe_load(re.sub(r"(?m)\A#.*\n", "", dumped))
        return {part: options[part] for part in ("seed_everything", "trainer", "model", "data")}
