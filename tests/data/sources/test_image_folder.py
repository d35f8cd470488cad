"""Folders of images: their layouts, their splits, and errors."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from src.data import DataError, ImageFolder
from tests.helpers.standin_data import make_image_folder


def set_up(root: Path, folder: Path, **changes: Any) -> Any:
    data = ImageFolder(**{"folder": str(folder), "root": str(root), "image_size": 16, **changes})
    data.prepare_data()
    data.setup("fit")
    return data


def sizes(data: Any) -> list[int]:
    return [len(data.datasets[split]) for split in ("train", "val", "test")]


@pytest.mark.parametrize(
    ("splits", "expected"),
    [
        ([""], [16, 4, 4]),
        (["train"], [16, 4, 4]),
        (["train", "val"], [20, 24, 4]),
        (["train", "val", "test"], [24, 24, 24]),
    ],
)
def test_missing_splits_are_split_off(tmp_path: Path, splits: list[str], expected: list[int]) -> None:
    data = set_up(tmp_path, make_image_folder(tmp_path / "images", splits))
    assert data.class_names == ["cat", "dog"]
    assert sizes(data) == expected


def test_images_to_predict_are_found_at_any_depth(tmp_path: Path) -> None:
    folder = make_image_folder(tmp_path / "images")
    (tmp_path / "new" / "deep").mkdir(parents=True)
    for name in ("b.png", "deep/a.jpeg", "notes.txt", ".hidden.png"):
        Image.new("RGB", (20, 30)).save(tmp_path / "new" / name, format="png")
    data = set_up(tmp_path, folder, predict_dir=str(tmp_path / "new"))
    images, labels = next(iter(data.predict_dataloader()))
    assert images.shape == (2, 3, 16, 16)
    assert labels.tolist() == [-1, -1]
    assert sizes(data) == [16, 4, 4]


def message_of(tmp_path: Path, **arguments: Any) -> str:
    with pytest.raises(DataError) as error:
        ImageFolder(**({"root": str(tmp_path)} | arguments)).prepare_data()
    return str(error.value)


def test_missing_folder(tmp_path: Path) -> None:
    assert message_of(tmp_path, folder=f"{tmp_path}/nowhere") == (
        f"There is no folder {tmp_path}/nowhere. Expected one with a subfolder per class, or with train/ that holds "
        "them. Set --data.folder."
    )
    folder = make_image_folder(tmp_path / "images")
    assert message_of(tmp_path, folder=str(folder), predict_dir=f"{tmp_path}/nowhere") == (
        f"There is no folder {tmp_path}/nowhere. Correct the path or create the folder."
    )


def test_fewer_than_two_classes(tmp_path: Path) -> None:
    folder = make_image_folder(tmp_path / "images", names=["cat"])
    assert message_of(tmp_path, folder=str(folder)) == (
        f"{folder}/train holds 1 class folders (cat): expected two or more, one subfolder of images per class. Add "
        "classes or set --data.folder."
    )
    (tmp_path / "empty").mkdir()
    assert message_of(tmp_path, folder=f"{tmp_path}/empty") == (
        f"{tmp_path}/empty holds 0 class folders (none): expected two or more, one subfolder of images per class. Add "
        "classes or set --data.folder."
    )


def test_class_without_images(tmp_path: Path) -> None:
    folder = make_image_folder(tmp_path / "images")
    (folder / "train" / "emu").mkdir()
    assert message_of(tmp_path, folder=str(folder)) == (
        f"{folder}/train/emu holds no images: expected files that end in .bmp, .gif, .jpeg, .jpg, .png, .tif, .tiff, "
        ".webp. Put some there or remove the folder."
    )


def test_class_that_training_lacks(tmp_path: Path) -> None:
    folder = make_image_folder(tmp_path / "images")
    make_image_folder(folder, ["val"], ["cat", "emu"])
    assert message_of(tmp_path, folder=str(folder)) == (
        f"{folder}/val/emu is a class that the training folder lacks; it has cat, dog. Add training images of it or "
        "remove the folder."
    )


def test_split_without_classes(tmp_path: Path) -> None:
    folder = make_image_folder(tmp_path / "images")
    (folder / "test").mkdir()
    assert message_of(tmp_path, folder=str(folder)) == (
        f"{folder}/test holds no class folders: expected some of cat, dog. Add them or remove test/, and it is split "
        "off the training images."
    )


def test_unreadable_image(tmp_path: Path) -> None:
    folder = make_image_folder(tmp_path / "images")
    path = folder / "train" / "dog" / "5.png"
    path.write_bytes(b"not an image")
    assert message_of(tmp_path, folder=str(folder)) == (
        f"{path} cannot be read as an image (cannot identify image file '{path}'). Replace the file or remove it."
    )
    assert list((tmp_path / "cache").iterdir()) == []
    half = (folder / "train" / "dog" / "6.png").read_bytes()[:200]
    path.write_bytes(half)
    assert message_of(tmp_path, folder=str(folder)).startswith(f"{path} cannot be read as an image (")


def test_unwritable_root(tmp_path: Path) -> None:
    folder = make_image_folder(tmp_path / "images")
    (tmp_path / "file").write_text("in the way")
    assert message_of(tmp_path, folder=str(folder), root=f"{tmp_path}/file") == (
        f"Cannot write to {tmp_path}/file/cache: Not a directory. Datasets and caches are kept there: choose a folder "
        "that you may write to with --data.root."
    )
