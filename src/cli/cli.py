"""The command line of train.py."""

import math
import os
import shutil
import signal
import sys
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.callbacks import ProgressBar as AnyProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch.distributed.constants import default_pg_timeout

from src.callbacks import (
    BatchSizeSummary,
    EvaluationPictures,
    FiniteLoss,
    GPUMemory,
    NormStatistics,
    ProgressBar,
    SamplesPerSecond,
)
from src.cli.checkpoint_match import (
    SavedModel,
    check_modality,
    hyperparameter_differences,
    read_checkpoint,
    weight_differences,
)
from src.cli.devices import missing_devices
from src.cli.mistakes import one_line
from src.cli.parser import FROM_DATA, TrainParser, fail, failing_on_mistakes
from src.cli.predictions import gather_predictions, write_predictions
from src.cli.run_folder import RunFolder, newest_checkpoint
from src.cli.run_metadata import SaveRunMetadata, log_final_scores
from src.cli.sync_batchnorm import SyncNorms, check_sync
from src.data import ClassificationData, DataError
from src.launch.launcher import end_when_one_fails, wait_for
from src.launch.process import end_between_steps
from src.launch.world_size import check_world_size
from src.models import Classifier


class TrainCLI(LightningCLI):
    """LightningCLI with these additions.

    - `fit` goes on to test the best checkpoint; the other commands need `--ckpt_path`.
    - `--ckpt_path=best` or `last` is the newest run's. `fit --ckpt_path=last` resumes a run that was stopped, in its
      own folder, and starts a run where there is none: the same command can be repeated until the run is done.
    - A checkpoint of another model is refused. A checkpoint never overrides a flag.
    - Runs are logged to TensorBoard under `runs/<experiment>/version_<n>`; `--trainer.default_root_dir` replaces
      `runs`.
    - A user's mistake gives one message and exit code 2.
    """

    def __init__(self) -> None:
        super().__init__(
            Classifier,
            ClassificationData,
            subclass_mode_model=True,
            subclass_mode_data=True,
            parser_class=TrainParser,
            save_config_callback=SaveRunMetadata,
            save_config_kwargs={"overwrite": True},
            trainer_defaults={"use_distributed_sampler": False, "num_sanity_val_steps": 0},
            seed_everything_default=0,
            auto_configure_optimizers=False,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        # Options that the user cannot set: checkpoints are loaded with weights_only, and `predict` needs the
        # predictions.
        fixed = {"weights_only", "return_predictions"}
        return {name: skipped | fixed for name, skipped in LightningCLI.subcommands().items()}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--experiment", type=str, default="default", help="Name of the run's folder.")
        parser.add_argument(
            "--timeout",
            type=float,
            default=300.0,
            help="Seconds that a process of several waits for the others in one place before the run ends as failed.",
        )
        parser.add_lightning_class_args(NormStatistics, "norm_statistics")
        parser.add_lightning_class_args(EvaluationPictures, "evaluation_pictures")
        for name in FROM_DATA:
            parser.link_arguments(f"data.{name}", f"model.init_args.{name}", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        with failing_on_mistakes(sys.argv[1:]):
            super().parse_arguments(parser, args)

    def _parse_ckpt_path(self) -> None:
        """Do nothing. LightningCLI lets a checkpoint override the flags; here `_check_match` compares them later."""

    def instantiate_classes(self) -> None:
        try:
            self.ckpt_path = self._find_checkpoint()
            saved = read_checkpoint(self.ckpt_path) if self.ckpt_path else None
            self._instantiate()
            check_modality(self.model, self.datamodule)
            if saved:
                self._check_match(saved)
            if self._option("trainer.sync_batchnorm"):
                check_sync(self.trainer, self.model)
        except (ValueError, OSError, MisconfigurationException) as error:
            fail(str(error))

    def _instantiate(self) -> None:
        try:
            super().instantiate_classes()
        except (ValueError, OSError, MisconfigurationException) as error:
            fail(one_line(str(error)))  # the error of a class that is not ours, such as a callback

    def _option(self, key: str) -> Any:
        return self.config[self.subcommand][key]

    @property
    def _timeout(self) -> float:
        seconds: float = self._option("timeout")
        if not 0 < seconds < math.inf:
            raise ValueError(f"timeout={seconds}: expected a number of seconds above 0")
        return seconds

    @property
    def experiment_dir(self) -> Path:
        return Path(self._option("trainer.default_root_dir") or "runs", self._option("experiment"))

    def _find_checkpoint(self) -> Path | None:
        asked = self._option("ckpt_path")
        if asked is None and self.subcommand != "fit":
            raise ValueError(f"{self.subcommand} needs trained weights: --ckpt_path=best (the newest run's), or a file")
        if asked not in ("best", "last"):
            return None if asked is None else Path(asked)
        found = newest_checkpoint(self.experiment_dir, asked)
        if found is None and (self.subcommand, asked) != ("fit", "last"):
            raise ValueError(f"--ckpt_path={asked}: the newest run in {self.experiment_dir} has none; run fit first")
        return found

    def _check_match(self, saved: SavedModel) -> None:
        resuming = self.subcommand == "fit"
        lines = hyperparameter_differences(self.model.hparams, saved.hyperparameters, resuming)
        lines = lines or weight_differences(self.model, saved)
        if lines:
            config = RunFolder.of_checkpoint(saved.path).config
            hint = f" (it was made with --config {config})" if config.is_file() else ""
            raise ValueError("\n  ".join([f"the checkpoint {saved.path} does not fit the command{hint}", *lines]))

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        options = self._get(self.config_init, "trainer")
        timeout = timedelta(seconds=self._timeout)
        logger = self._default_logger() if options.logger is None else options.logger
        callbacks: list[Callback] = as_list(options.callbacks)
        if self.subcommand == "fit":
            callbacks += [SamplesPerSecond(), GPUMemory(), BatchSizeSummary(), FiniteLoss()]
            if logger:
                callbacks.append(LearningRateMonitor(logging_interval="step"))
        if options.enable_progress_bar is not False and not any(isinstance(c, AnyProgressBar) for c in callbacks):
            callbacks.append(ProgressBar())
        if options.enable_checkpointing is not False:
            callbacks += checkpoints(self._checkpoint_dir(logger))
        if options.sync_batchnorm:
            kwargs["plugins"] = [*as_list(options.plugins), SyncNorms()]
        try:
            trainer = super().instantiate_trainer(logger=logger, callbacks=callbacks, **kwargs)
        except (TypeError, ModuleNotFoundError) as error:  # Lightning's, for devices that it cannot read
            raise ValueError(
                f"accelerator={options.accelerator} and devices={options.devices} do not fit ({error}). Set "
                "--trainer.devices to a number of processes."
            ) from error
        except MisconfigurationException as error:
            raise ValueError(missing_devices(options.accelerator, options.devices) or str(error)) from error
        check_world_size(trainer.num_devices, trainer.num_nodes)
        if getattr(trainer.strategy, "_timeout", None) == default_pg_timeout:  # the user gave the strategy no timeout
            trainer.strategy._timeout = timeout  # type: ignore[attr-defined]
        return trainer

    def _default_logger(self) -> TensorBoardLogger | bool:
        if self.subcommand != "fit":
            return False  # these commands print their result and make no run
        version = None
        if self.ckpt_path and self._option("ckpt_path") == "last":
            version = RunFolder.of_checkpoint(self.ckpt_path).path.name
            warnings.filterwarnings("ignore", r"Checkpoint directory .* exists and is not empty")
        return TensorBoardLogger(self.experiment_dir.parent, self.experiment_dir.name, version, default_hp_metric=False)

    def _checkpoint_dir(self, logger: object) -> Path | None:
        if self.subcommand != "fit" and self.ckpt_path:
            return self.ckpt_path.parent  # the restored state of the callback refers to this folder
        return RunFolder(Path(logger.log_dir)).checkpoints if isinstance(logger, TensorBoardLogger) else None

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        kwargs = super()._prepare_subcommand_kwargs(subcommand)
        return {**kwargs, "ckpt_path": self.ckpt_path, "weights_only": True}

    def _run_subcommand(self, subcommand: str) -> None:
        end_between_steps(self.trainer)
        launcher = self._launcher_of_others()
        if launcher:
            end_when_one_fails(lambda: launcher.procs)
        try:
            super()._run_subcommand(subcommand)
            if launcher:
                wait_for(launcher.procs, self._timeout)
        except SIGTERMException:
            # Lightning would exit with 0. The other processes still do: a failure code of theirs would end this process
            # before it has finished.
            raise SystemExit(128 + signal.SIGTERM if self.trainer.local_rank == 0 else 0) from None
        except (DataError, MisconfigurationException) as error:
            fail(str(error))
        except ValueError as error:
            # Only the first batch shows the size of the maps that reach a norm.
            if not str(error).startswith("Expected more than 1 "):
                raise
            fail(
                f"a norm cannot take the statistics of a single value ({error}): take larger images, a backbone or "
                "stem that shrinks them less, larger batches, or another norm"
            )

    def _launcher_of_others(self) -> _SubprocessScriptLauncher | None:
        """The launcher, if this process starts the others; else None."""
        launcher = self.trainer.strategy.launcher
        if not isinstance(launcher, _SubprocessScriptLauncher):
            return None
        return None if launcher.cluster_environment.creates_processes_externally else launcher

    def after_fit(self) -> None:
        checkpoint = self.trainer.checkpoint_callback
        best = getattr(checkpoint, "best_model_path", "") or None
        lines = []
        for scores in self.trainer.test(self.model, self.datamodule, ckpt_path=best, weights_only=True):
            log_final_scores(self.trainer, self.config_dump, scores)
            lines.append(("Test accuracy", f"{scores['test/accuracy']:.4f}"))
        if best:
            lines.append(("Checkpoint", os.path.relpath(best)))
        if isinstance(self.trainer.logger, TensorBoardLogger):
            lines.append(("TensorBoard", f"{tensorboard_command()} --logdir {self.experiment_dir}"))
        rank_zero_print("\n" + "\n".join(f"{name:<15}{value}" for name, value in lines))

    def predict(self, **kwargs: Any) -> None:
        """Write the class of each sample to predictions.csv beside the checkpoint."""
        batches: Any = self.trainer.predict(**kwargs)
        probabilities = gather_predictions(torch.cat(batches).cpu())
        assert self.ckpt_path is not None
        path = self.ckpt_path.with_name("predictions.csv")
        if self.trainer.is_global_zero:
            write_predictions(path, probabilities, self.datamodule.predict_names, self.datamodule.class_names)
        rank_zero_print(f"\nPredictions    {path}")


def as_list(value: Any) -> list[Any]:
    """The plugins or callbacks of a Trainer, which takes one, several or none, as a list."""
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def checkpoints(folder: Path | None) -> list[Callback]:
    """The callbacks that save `best.ckpt` and `last.ckpt`; a resumed run overwrites its own files.

    There are two, since one callback's `save_last` saves only together with a new best, and a killed run would then
    resume from an old epoch. The best checkpoint has the lowest validation loss: on a small validation split many
    epochs have the same accuracy, and the first of them would stay the best. The last checkpoint is always saved at the
    end of an epoch, whenever validation runs, since checkpoints do not hold the sums of an unfinished epoch.
    """
    best = ModelCheckpoint(folder, "best", monitor="val/loss", mode="min", enable_version_counter=False)
    return [best, ModelCheckpoint(folder, "last", save_on_train_epoch_end=True, enable_version_counter=False)]


def tensorboard_command() -> str:
    """`tensorboard`, or its path beside this Python if the environment is not active."""
    if shutil.which("tensorboard"):
        return "tensorboard"
    return os.path.relpath(Path(sys.executable).with_name("tensorboard"))


@rank_zero_only
def rank_zero_print(text: str) -> None:
    """Print from the first process only."""
    print(text, flush=True)
