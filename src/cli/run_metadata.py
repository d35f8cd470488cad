"""Save a run's configuration, environment and final scores."""

import shlex
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from lightning import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger

from src.cli.run_folder import RunFolder
from src.machine import commit, hardware, versions
from src.norms.spec import is_spec, to_text, without_none


class SaveRunMetadata(SaveConfigCallback):
    """Saves all options of a run as config.yaml, and its hardware, versions and commit as environment.yaml.

    Both files are in the run's folder, and their texts on TensorBoard's TEXT page. A run that is resumed adds an entry
    to environment.yaml. Each checkpoint holds the versions.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # Without a logger a run has no folder, and Lightning would write into the working folder.
        if stage == "fit" and trainer.loggers:
            self.folder = RunFolder(Path(str(trainer.log_dir)))  # a broadcast, in which all processes take part
            super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        started = yaml.safe_dump([environment(trainer, self.config["seed_everything"])], sort_keys=False, width=1000)
        with self.folder.environment.open("a", encoding="utf-8") as file:
            file.write(started)
        if isinstance(trainer.logger, TensorBoardLogger):
            config = self.parser.dump(self.config, skip_none=False)
            for name, text in (("config", config), ("environment", started)):
                trainer.logger.experiment.add_text(name, f"```yaml\n{text}\n```", trainer.global_step)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["versions"] = dict(versions())


def environment(trainer: Trainer, seed: int | bool) -> dict[str, Any]:
    """The command, hardware, versions and commit of a run, as plain values."""
    revision, clean = commit()
    return {
        "command": shlex.join(["python", *sys.argv]),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": seed,
        "hardware": hardware(),
        "device": trainer.strategy.root_device.type,
        "processes": trainer.world_size,
        "precision": trainer.precision,
        "commit": revision,
        "clean": clean,
        "versions": dict(versions()),
    }


def log_final_scores(trainer: Trainer, config: Mapping[str, Any], scores: Mapping[str, Any]) -> None:
    """Put the options of model and data, the seed and the test scores on TensorBoard's HPARAMS page."""
    if not isinstance(trainer.logger, TensorBoardLogger):
        return
    options: dict[str, Any] = {"seed": config["seed_everything"], "epochs": trainer.max_epochs}
    for part in ("model", "data"):
        options[part] = config[part]["class_path"].rsplit(".", 1)[-1]
        for name, value in config[part]["init_args"].items():
            if is_spec(value):
                options[f"{part}/{name}"] = to_text(without_none(value))
            elif isinstance(value, Mapping):
                options |= {f"{part}/{name}.{key}": v for key, v in value.items()}
            else:
                options[f"{part}/{name}"] = value
    trainer.logger.log_hyperparams(options, {f"hp/{name}": float(value) for name, value in scores.items()})
    trainer.logger.save()
