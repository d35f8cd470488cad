"""The pixel cache: decoding, changed files, and interrupted writes."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from src.data import ImageFolder
from src.data.files import pixel_cache
from tests.helpers.standin_data import make_image_folder


def set_up(root: Path, folder: Path, **changes: Any) -> Any:
    data = ImageFolder(**{"folder": str(folder), "root": str(root), "image_size": 16, **changes})
    data.prepare_data()
    data.setup("fit")
    return data


def test_shorter_side_is_resized_and_the_center_kept(tmp_path: Path) -> None:
    folder = make_image_folder(tmp_path / "images")
    # Red, green and blue bands. The centered square contains only the green band.
    bands = np.zeros((20, 60, 3), dtype=np.uint8)
    for channel in range(3):
        bands[:, 20 * channel : 20 * (channel + 1), channel] = 255
    Image.fromarray(bands).save(folder / "bands.png")
    decoded = pixel_cache.decode(folder / "bands.png", 10)
    assert decoded.shape == (3, 10, 10)
    # Antialiasing mixes in a little of the neighbouring bands.
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
