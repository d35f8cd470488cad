"""Writing so that a name in a cache is either absent or complete, whenever the process is stopped."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from src.data.errors import DataError


@contextlib.contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """A temporary folder inside `parent`, which is created; gone when the block ends, however it ends.

    It lies beside its destination because a rename is atomic only within one file system.

    Raises:
        DataError: `parent` cannot be written to.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=parent))
    except OSError as error:
        raise DataError(
            f"Cannot write to {parent}: {error.strerror}. Datasets and caches are kept there: "
            "choose a folder that you may write to with --data.root."
        ) from error
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def publish(finished: Path, destination: Path) -> None:
    """Give a finished file or folder its final name.

    Of several processes that made the same folder the first one wins; what the others made is equal.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.replace(finished, destination)
    except OSError:
        # os.replace overwrites a file, but not a folder that has content.
        if not destination.is_dir():
            raise
