"""Listing a folder of images: a class for each subfolder, its files sorted by name."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from src.data.errors import DataError

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class Listing:
    """The images below a folder, sorted by name."""

    folder: Path
    files: list[Path]  # N of them
    labels: np.ndarray  # (N,) int64, -1 where unknown


def visible_folders(folder: Path) -> list[Path]:
    """The subfolders, sorted, without hidden ones."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def image_files(folder: Path) -> list[Path]:
    """All images below `folder`, at any depth, sorted; hidden files are skipped.

    Raises:
        DataError: there is no such folder or no image in it.
    """
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder.absolute()}. Correct the path or create the folder.")
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in EXTENSIONS and not path.name.startswith(".") and path.is_file()
    )
    if not files:
        raise DataError(
            f"{folder} holds no images: expected files that end in {', '.join(EXTENSIONS)}. "
            "Put some there or remove the folder."
        )
    return files


def list_classes(folder: Path) -> list[str]:
    """The class names of a training folder: the names of its subfolders.

    Raises:
        DataError: there is no such folder, or fewer than two classes.
    """
    if not folder.is_dir():
        raise DataError(
            f"There is no folder {folder.absolute()}. Expected one with a subfolder per class, or with train/ "
            "that holds them. Set --data.folder."
        )
    names = [path.name for path in visible_folders(folder)]
    if len(names) < 2:
        raise DataError(
            f"{folder} holds {len(names)} class folders ({', '.join(names) or 'none'}): expected two or more, one "
            "subfolder of images per class. Add classes or set --data.folder."
        )
    return names


def list_split(folder: Path, class_names: list[str]) -> Listing:
    """The labelled images of one split.

    Raises:
        DataError: a class is not one of `class_names`, or a folder has no images.
    """
    files: list[Path] = []
    labels: list[int] = []
    for path in visible_folders(folder):
        if path.name not in class_names:
            raise DataError(
                f"{path} is a class that the training folder lacks; it has {', '.join(class_names)}. "
                "Add training images of it or remove the folder."
            )
        found = image_files(path)
        files += found
        labels += [class_names.index(path.name)] * len(found)
    if not files:
        raise DataError(
            f"{folder} holds no class folders: expected some of {', '.join(class_names)}. Add them or remove "
            f"{folder.name}/, and it is split off the training images."
        )
    return Listing(folder, files, np.array(labels, dtype=np.int64))


def list_unlabelled(folder: Path) -> Listing:
    """All images below `folder`, with the label -1."""
    files = image_files(folder)
    return Listing(folder, files, np.full(len(files), -1, dtype=np.int64))
