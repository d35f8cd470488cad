"""What a run leaves in TensorBoard beside its curves: the configuration and the final scores."""

from collections.abc import Mapping
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger

from src.cli.agreement import shown


class SaveConfig(SaveConfigCallback):
    """Saves the resolved configuration as config.yaml in the run's folder, and as text in TensorBoard."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # Without a logger there is no run's folder, and it would be written into the working folder.
        if stage == "fit" and trainer.loggers:
            super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if isinstance(trainer.logger, TensorBoardLogger):
            text = self.parser.dump(self.config, skip_none=False)
            trainer.logger.experiment.add_text("config", f"```yaml\n{text}\n```")


def log_final_scores(trainer: Trainer, config: Mapping[str, Any], scores: Mapping[str, Any]) -> None:
    """Put the configuration's model, data and seed with the test scores on TensorBoard's HPARAMS page."""
    if not isinstance(trainer.logger, TensorBoardLogger):
        return
    options: dict[str, Any] = {"seed": config["seed_everything"], "epochs": trainer.max_epochs}
    for part in ("model", "data"):
        options[part] = config[part]["class_path"].rsplit(".", 1)[-1]
        for name, value in config[part]["init_args"].items():
            if isinstance(value, Mapping) and "class_path" not in value:
                options |= {f"{part}/{name}.{key}": v for key, v in value.items()}
            else:
                options[f"{part}/{name}"] = shown(value) if isinstance(value, Mapping) else value
    trainer.logger.log_hyperparams(options, {f"hp/{name}": float(value) for name, value in scores.items()})
    trainer.logger.save()
