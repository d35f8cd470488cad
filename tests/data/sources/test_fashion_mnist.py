"""Fashion-MNIST: the places of its files, and errors for missing or damaged files."""

import gzip
import stat
from pathlib import Path

import numpy as np
import pytest
from torchvision import datasets

from src.data import DataError, FashionMNIST
from src.data.sources import fashion_mnist
from tests.helpers.standin_data import make_fashion_mnist

DEBIAN = Path("/usr/share/datasets/fashion-mnist")


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
