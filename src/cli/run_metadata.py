"""What a run leaves beside its curves: the configuration, what it ran on, and the final scores."""

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

from src.machine import commit, hardware, versions
from src.norms.spec import is_spec, to_text, without_none


class SaveRecord(SaveConfigCallback):
    """Saves the resolved configuration as config.yaml in the run's folder, and what it runs on as environment.yaml.

    Both are on TensorBoard's TEXT page, too. A run that goes on adds to environment.yaml. Each checkpoint has the
    versions.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # Without a logger there is no run's folder, and it would be written into the working folder.
        if stage == "fit" and trainer.loggers:
            self.folder = Path(str(trainer.log_dir))  # which all processes have to ask for
            super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        started = yaml.safe_dump([environment(trainer, self.config["seed_everything"])], sort_keys=False, width=1000)
        with (self.folder / "environment.yaml").open("a", encoding="utf-8") as file:
            file.write(started)
        if isinstance(trainer.logger, TensorBoardLogger):
            config = self.parser.dump(self.config, skip_none=False)
            for name, text in (("config", config), ("environment", started)):
                trainer.logger.experiment.add_text(name, f"```yaml\n{text}\n```", trainer.global_step)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["versions"] = dict(versions())


def environment(trainer: Trainer, seed: int | bool) -> dict[str, Any]:
    """What a run runs on, as plain values."""
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
    """Put the configuration's model, data and seed with the test scores on TensorBoard's HPARAMS page."""
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
