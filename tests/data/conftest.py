"""Fixtures: datasets on stand-in files, and downloads that fail."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
from torchvision import datasets

from src.data import DATASETS, ArrayData, ImageData, TextData, TextFiles
from tests.helpers.standin_data import make_text_file, use_standins


@pytest.fixture
def make_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., ImageData | TextData | ArrayData]:
    """`make_data("Digits", batch_size=8)` sets up the dataset on stand-in files, and returns it."""
    arguments = use_standins(monkeypatch, tmp_path)

    def make(name: str, **changes: Any) -> ImageData | TextData | ArrayData:
        data = DATASETS[name](**(arguments[name] | {"batch_size": 16} | changes))
        data.prepare_data()
        data.setup("fit")
        return data

    return make


@pytest.fixture
def set_up_texts(tmp_path: Path) -> Callable[..., TextFiles]:
    """`set_up_texts(vocab_size=64)` sets up the texts of a stand-in file in `tmp_path`, and returns them."""

    def set_up(**changes: Any) -> TextFiles:
        train = str(make_text_file(tmp_path / "train.csv"))
        data = TextFiles(**({"train": train, "root": str(tmp_path), "vocab_size": 256} | changes))
        data.prepare_data()
        data.setup("fit")
        return data

    return set_up


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each download leaves half a file behind, and fails."""

    def fail(url: str, download_root: str, **options: Any) -> None:
        os.makedirs(download_root, exist_ok=True)
        Path(download_root, "half").write_text("written")
        raise URLError("no route to host")

    monkeypatch.setattr(datasets.cifar, "download_and_extract_archive", fail)
    monkeypatch.setattr(datasets.mnist, "download_and_extract_archive", fail)
