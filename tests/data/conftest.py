"""Stand-ins for all datasets."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from src.data import DATASETS, ArrayData, ImageData, TextData
from tests.helpers.standin_data import use_standins


@pytest.fixture
def make_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., ImageData | TextData | ArrayData]:
    """`make_data("Digits", batch_size=8)`: the dataset on stand-in files, set up."""
    arguments = use_standins(monkeypatch, tmp_path)

    def make(name: str, **changes: Any) -> ImageData | TextData | ArrayData:
        data = DATASETS[name](**(arguments[name] | {"batch_size": 16} | changes))
        data.prepare_data()
        data.setup("fit")
        return data

    return make
