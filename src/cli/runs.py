"""Where runs lie: `runs/<experiment>/version_<n>/`, with their checkpoints, configuration and TensorBoard events."""

import re
from pathlib import Path


def versions(experiment: Path) -> list[Path]:
    """The runs of an experiment, newest first."""
    found = [p for p in experiment.glob("version_*") if re.fullmatch(r"version_\d+", p.name)]
    return sorted(found, key=lambda p: int(p.name.removeprefix("version_")), reverse=True)


def newest_checkpoint(experiment: Path, name: str) -> Path | None:
    """The checkpoint `best` or `last` of the newest run that has one."""
    paths = (version / "checkpoints" / f"{name}.ckpt" for version in versions(experiment))
    return next((path for path in paths if path.is_file()), None)
