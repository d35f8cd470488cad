"""Fashion-MNIST, CIFAR and Digits: where their files are found and what is said when they are not."""

import gzip
import os
import pickle
import stat
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
from sklearn.datasets import load_digits
from torchvision import datasets

from src.data import CIFAR10, CIFAR100, DataError, Digits, FashionMNIST
from src.data.sources import fashion_mnist
from tests.standins import make_fashion_mnist, use_standins

DEBIAN = Path("/usr/share/datasets/fashion-mnist")


def test_digits_are_stretched_to_bytes() -> None:
    data = Digits()
    data.setup("fit")
    pixels = data.load()["train"].pixels[:, 0]
    np.testing.assert_allclose(pixels, load_digits().images * 255 / 16, atol=0.5)
    assert (pixels.min(), pixels.max()) == (0, 255)
    assert [len(data.datasets[split]) for split in ("train", "val", "test")] == [1258, 269, 270]


@pytest.mark.parametrize("folder", ["", "fashion-mnist", "FashionMNIST/raw"])
def test_fashion_mnist_is_found_in_each_place_and_nothing_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: str
) -> None:
    monkeypatch.setattr(fashion_mnist, "CONTENT_MD5", make_fashion_mnist(tmp_path / folder))
    before = sorted(tmp_path.rglob("*"))
    tmp_path.chmod(stat.S_IREAD | stat.S_IEXEC)
    data = FashionMNIST(root=str(tmp_path))
    data.prepare_data()
    data.setup("fit")
    assert [len(data.datasets[split]) for split in ("train", "val", "test")] == [220, 20, 60]
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_real_fashion_mnist() -> None:
    data = FashionMNIST(root=str(DEBIAN))
    data.prepare_data()
    data.setup("fit")
    sizes = {split: np.bincount(data.datasets[split].labels).tolist() for split in ("train", "val", "test")}
    assert sizes == {"train": [5500] * 10, "val": [500] * 10, "test": [1000] * 10}


def test_changed_fashion_mnist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hashes = make_fashion_mnist(tmp_path)
    monkeypatch.setattr(fashion_mnist, "CONTENT_MD5", hashes)
    path = tmp_path / "train-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(b"other"))
    with pytest.raises(DataError) as error:
        FashionMNIST(root=str(tmp_path)).setup("fit")
    assert str(error.value) == (
        f"{path} is damaged or was changed: the md5 of its content is 795f3202b17cb6bc3d4b771d8c6c9eaf, expected "
        f"{hashes[path.name]}. Delete the file and run again to fetch it anew, or put the original file in its place."
    )


def test_torn_fashion_mnist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fashion_mnist, "CONTENT_MD5", make_fashion_mnist(tmp_path))
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError) as error:
        FashionMNIST(root=str(tmp_path)).setup("fit")
    assert str(error.value) == (
        f"{path} cannot be decompressed (Compressed file ended before the end-of-stream marker was reached). Delete "
        "the file and run again to fetch it anew, or put the original file in its place."
    )


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Downloads leave half a file behind and fail."""

    def fail(url: str, download_root: str, **options: Any) -> None:
        os.makedirs(download_root, exist_ok=True)
        Path(download_root, "half").write_text("written")
        raise URLError("no route to host")

    monkeypatch.setattr(datasets.cifar, "download_and_extract_archive", fail)
    monkeypatch.setattr(datasets.mnist, "download_and_extract_archive", fail)


def test_fashion_mnist_without_network(no_network: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", ["http://mirror/"])
    with pytest.raises(DataError) as error:
        FashionMNIST(root=str(tmp_path)).prepare_data()
    assert str(error.value) == (
        "Fashion-MNIST is not there and could not be downloaded (Error downloading train-images-idx3-ubyte.gz: "
        "Tried http://mirror/, got: <urlopen error no route to host>). "
        "Looked for train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz, "
        f"t10k-labels-idx1-ubyte.gz together in one of {tmp_path}, {tmp_path}/fashion-mnist, "
        f"{tmp_path}/FashionMNIST/raw. Get them from https://github.com/zalandoresearch/fashion-mnist or, on Debian, "
        "install dataset-fashion-mnist and pass --data.root=/usr/share/datasets/fashion-mnist."
    )
    assert list(tmp_path.iterdir()) == []


def test_fashion_mnist_before_its_download(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        FashionMNIST(root=str(tmp_path)).setup("fit")
    assert str(error.value) == (
        f"Fashion-MNIST is not below {tmp_path}. Call prepare_data() first: it downloads what is missing."
    )


def test_fashion_mnist_downloads_into_torchvision_s_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hashes = make_fashion_mnist(tmp_path / "server")
    monkeypatch.setattr(fashion_mnist, "CONTENT_MD5", hashes)

    class Download:
        def __init__(self, root: Path, download: bool) -> None:
            make_fashion_mnist(Path(root, "FashionMNIST", "raw"))

    monkeypatch.setattr(datasets, "FashionMNIST", Download)
    fashion_mnist.download(tmp_path / "root")
    assert fashion_mnist.find_folder(tmp_path / "root") == tmp_path / "root" / "FashionMNIST" / "raw"
    assert [path.name for path in (tmp_path / "root").iterdir()] == ["FashionMNIST"]


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
    # Row by row, channel after channel, as the authors describe the format.
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
    path = tmp_path / "cifar-100-python" / "test"
    path.write_bytes(b"other")
    with pytest.raises(DataError) as error:
        data.setup("fit")
    assert str(error.value) == (
        f"{path} is damaged or was changed: the md5 of its content is 795f3202b17cb6bc3d4b771d8c6c9eaf, expected "
        f"{datasets.CIFAR100.test_list[0][1]}. Delete the file and run again to fetch it anew, or put the original "
        "file in its place."
    )
    path.unlink()
    data.prepare_data()
    with pytest.raises(DataError) as error:
        data.setup("fit")
    assert str(error.value) == (
        f"{path.parent} lacks the file test. Delete the folder and run again to fetch it anew, or unpack the original "
        "archive in its place."
    )
