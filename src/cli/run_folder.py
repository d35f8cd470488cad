"""Where runs lie: `runs/<experiment>/version_<n>/`, with their checkpoints, configuration and TensorBoard events."""

import re
from pathlib import Path


def versions(experiment: Path) -> list[Path]:
    """The runs of an experiment, newest first."""
    found = [p for p in experiment.glob("version_*") if re.fullmatch(r"version_\d+", p.name)]
    return sorted(found, key=lambda p: int(p.name.removeprefix("version_")), reverse=True)


def newest_checkpoint(experiment: Path, name: str) -> Path | None:
    """The checkpoint `best` or `last` of the newest run, or None where it has none."""
    newest = next(iter(versions(experiment)), None)
    path = None if newest is None else newest / "checkpoints" / f"{name}.ckpt"
    return path if path and path.is_file() else None
