"""The folder of a run, `runs/<experiment>/version_<n>/`, and where its files are."""

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunFolder:
    """A run's folder, with its checkpoints, configuration, environment and TensorBoard events."""

    path: Path

    @classmethod
    def of_checkpoint(cls, checkpoint: Path) -> "RunFolder":
        """The folder of the run that wrote a checkpoint."""
        return cls(checkpoint.parent.parent)

    @property
    def version(self) -> int:
        """The n in `version_<n>`."""
        return int(self.path.name.removeprefix("version_"))

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoints"

    def checkpoint(self, name: str) -> Path:
        """The file of the checkpoint `best` or `last`."""
        return self.checkpoints / f"{name}.ckpt"

    @property
    def config(self) -> Path:
        """All options of the run, which LightningCLI saves."""
        return self.path / "config.yaml"

    @property
    def environment(self) -> Path:
        """The hardware, the versions and the commit, once for each time that the run was started."""
        return self.path / "environment.yaml"


def runs_of(experiment: Path) -> list[RunFolder]:
    """The runs of an experiment, newest first."""
    found = [RunFolder(path) for path in experiment.glob("version_*") if re.fullmatch(r"version_\d+", path.name)]
    return sorted(found, key=lambda run: run.version, reverse=True)


def newest_checkpoint(experiment: Path, name: str) -> Path | None:
    """The checkpoint `best` or `last` of the newest run, or None if that run has none."""
    newest = next(iter(runs_of(experiment)), None)
    path = newest and newest.checkpoint(name)
    return path if path and path.is_file() else None
