"""The user's own images: layouts, decoding, cache, errors."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from src.data import DataError, ImageFolder
from src.data.files import pixel_cache
from tests.standins import make_image_folder


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


def test_shorter_side_is_resized_and_the_center_kept(tmp_path: Path) -> None:
    folder = make_image_folder(tmp_path / "images")
    # Red, green and blue bands, of which a centered square sees the green one only.
    bands = np.zeros((20, 60, 3), dtype=np.uint8)
    for channel in range(3):
        bands[:, 20 * channel : 20 * (channel + 1), channel] = 255
    Image.fromarray(bands).save(folder / "bands.png")
    decoded = pixel_cache.decode(folder / "bands.png", 10)
    assert decoded.shape == (3, 10, 10)
    # Smoothing lets a little of the neighbouring bands in.
    np.testing.assert_allclose(decoded.mean((1, 2)), [0, 255, 0], atol=10)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    image = Image.new("RGB", (8, 8), (200, 200, 200)).convert("L" if mode == "I;16" else mode)
    options: dict[str, Any] = {"transparency": b"\x00\xff"} if mode == "P" else {}
    path = tmp_path / ("image.jpg" if mode == "CMYK" else "image.png")
    image.save(path, **options)
    assert pixel_cache.decode(path, 8).shape == (3, 8, 8)


def test_images_are_decoded_once_until_a_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_image_folder(tmp_path / "images")
    decoded: list[Path] = []
    decode = pixel_cache.decode

    def count(path: Path, size: int) -> np.ndarray:
        decoded.append(path)
        return decode(path, size)

    monkeypatch.setattr(pixel_cache, "decode", count)
    first = set_up(tmp_path, folder)
    assert len(decoded) == 24
    again = set_up(tmp_path, folder)
    assert len(decoded) == 24
    assert isinstance(again.datasets["train"].pixels, np.memmap)
    np.testing.assert_array_equal(first.datasets["train"].pixels, again.datasets["train"].pixels)
    os.utime(folder / "train" / "cat" / "3.png", (1, 1))
    set_up(tmp_path, folder)
    assert len(decoded) == 48
    set_up(tmp_path, folder, image_size=8)
    assert len(decoded) == 72


def test_interrupted_decoding_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_image_folder(tmp_path / "images")
    decode = pixel_cache.decode

    def interrupt(path: Path, size: int) -> np.ndarray:
        if path.name == "7.png":
            raise KeyboardInterrupt
        return decode(path, size)

    monkeypatch.setattr(pixel_cache, "decode", interrupt)
    with pytest.raises(KeyboardInterrupt):
        set_up(tmp_path, folder)
    assert list((tmp_path / "cache").iterdir()) == []


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
