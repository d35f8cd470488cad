"""The options of the runs: train.py's own parser checks and completes them before anything runs."""

from collections.abc import Sequence
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.pytorch.cli import ArgsType, LightningArgumentParser

from src.cli import TrainCLI
from src.cli.parser import failing_on_mistakes

RUN_OPTIONS = ("config", "experiment", "ckpt_path")
"""Options that name a run and do not change its training."""


class FitParser(TrainCLI):
    """The parser of train.py's `fit`, without constructing or running anything.

    LightningCLI(run=False) has no options of `fit`, such as `--ckpt_path`, and it constructs the model and the data.
    """

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        return {"fit": TrainCLI.subcommands()["fit"]}

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        self.config = Namespace(subcommand="fit")

    def _set_seed(self) -> None: ...

    def instantiate_classes(self) -> None: ...

    def _run_subcommand(self, subcommand: str) -> None: ...

    def resolve(self, flags: Sequence[str]) -> dict[str, Any]:
        """All options of `train.py fit FLAGS` except `RUN_OPTIONS`; a mistake ends the program as it ends train.py."""
        parser = self._subcommand_parsers["fit"]
        with failing_on_mistakes(flags):
            config = parser.parse_args(list(flags))
        dumped = parser.dump(config, skip_link_targets=False, skip_none=False, format="yaml")
        options: dict[str, Any] = yaml.safe_load(dumped)
        return {name: value for name, value in options.items() if name not in RUN_OPTIONS}
