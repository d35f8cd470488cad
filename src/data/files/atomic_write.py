"""Atomic writes: a file or folder appears under its name only when it is complete, even if the process is killed."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from src.data.errors import DataError


@contextlib.contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """A temporary folder inside `parent`, which is created if needed; deleted at the end of the block.

    It lies beside the destination of what is written, because a rename is atomic only within one file system.

    Raises:
        DataError: `parent` cannot be written to.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True)
        scratch = TemporaryDirectory(prefix=".unfinished-", dir=parent, ignore_cleanup_errors=True)
    except OSError as error:
        raise DataError(
            f"Cannot write to {parent}: {error.strerror}. Datasets and caches are kept there: "
            "choose a folder that you may write to with --data.root."
        ) from error
    with scratch as path:
        yield Path(path)


def publish(finished: Path, destination: Path) -> None:
    """Give a finished file or folder its final name.

    If several processes made the same folder, the first one is kept; the others made equal content.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.replace(finished, destination)
    except OSError:
        # os.replace overwrites a file, but not a folder with content.
        if not destination.is_dir():
            raise
