"""CIFAR-10 and CIFAR-100: reading the files, and errors for missing or damaged files."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from src.data import CIFAR10, CIFAR100, DataError
from tests.helpers.standin_data import use_standins


def test_cifar_class_names() -> None:
    assert len(set(CIFAR10().class_names)) == 10
    assert len(set(CIFAR100().class_names)) == 100
    for data in (CIFAR10(), CIFAR100()):
        assert data.class_names == sorted(data.class_names)


def test_cifar_pixels_keep_their_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    arguments = use_standins(monkeypatch, tmp_path)["CIFAR10"]
    data = CIFAR10(**arguments)
    data.setup("fit")
    batch = pickle.loads((tmp_path / "cifar-10-batches-py" / "test_batch").read_bytes())
    images, labels = data.datasets["test"][[3]]
    # The file holds one channel after another, each row by row, as the authors describe the format.
    np.testing.assert_array_equal(images[0, 1, 2], batch["data"][3][1024 + 2 * 32 : 1024 + 3 * 32])
    assert labels.item() == batch["labels"][3]


def test_cifar_without_network(no_network: None, tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        CIFAR10(root=str(tmp_path)).prepare_data()
    assert str(error.value) == (
        "CIFAR10 is not there and could not be downloaded (<urlopen error no route to host>). Looked for the folder "
        f"{tmp_path}/cifar-10-batches-py. Download https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz (md5 "
        f"c58f30108f718f92721af3b95e74349a) elsewhere and unpack it in {tmp_path}, or point --data.root at the folder "
        "that holds cifar-10-batches-py."
    )
    assert list(tmp_path.iterdir()) == []


def test_changed_cifar(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    data = CIFAR100(**use_standins(monkeypatch, tmp_path)["CIFAR100"])
    folder = tmp_path / "cifar-100-python"
    (folder / "test").write_bytes(b"other")
    data.prepare_data()
    for files in ("test", "test, meta"):
        with pytest.raises(DataError) as error:
            data.setup("fit")
        assert str(error.value) == (
            f"{folder}: these files are missing, damaged or were changed: {files}. Delete the folder and run again to "
            "fetch it anew, or unpack the original archive in its place."
        )
        (folder / "meta").unlink(missing_ok=True)
