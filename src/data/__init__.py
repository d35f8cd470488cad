"""Data: each dataset is a LightningDataModule that gives batches `(inputs, labels)`."""

import sys

from src.data.arrays import ArrayData, ArrayDataset
from src.data.base import ClassificationData
from src.data.errors import DataError
from src.data.files.atomic_write import publish, scratch_folder
from src.data.images import ImageData
from src.data.sources.breast_cancer import BreastCancer
from src.data.sources.cifar import CIFAR10, CIFAR100
from src.data.sources.digits import Digits
from src.data.sources.fashion_mnist import FashionMNIST
from src.data.sources.image_folder import ImageFolder
from src.data.sources.moving_digits import MovingDigits
from src.data.sources.news import Newsgroups20, Reuters8, Reuters52
from src.data.sources.text_files import TextFiles
from src.data.sources.wine import Wine
from src.data.tables import TabularData
from src.data.texts import TextData

DATASETS: dict[str, type[ImageData] | type[TextData] | type[ArrayData]] = {
    "Digits": Digits,
    "FashionMNIST": FashionMNIST,
    "CIFAR10": CIFAR10,
    "CIFAR100": CIFAR100,
    "ImageFolder": ImageFolder,
    "Reuters8": Reuters8,
    "Reuters52": Reuters52,
    "Newsgroups20": Newsgroups20,
    "TextFiles": TextFiles,
    "BreastCancer": BreastCancer,
    "Wine": Wine,
    "MovingDigits": MovingDigits,
}

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "DATASETS",
    "ArrayData",
    "ArrayDataset",
    "BreastCancer",
    "ClassificationData",
    "DataError",
    "Digits",
    "FashionMNIST",
    "ImageData",
    "ImageFolder",
    "MovingDigits",
    "Newsgroups20",
    "Reuters8",
    "Reuters52",
    "TabularData",
    "TextData",
    "TextFiles",
    "Wine",
    "publish",
    "scratch_folder",
]

# A configuration may name a dataset by the module that defined it in an earlier version: `src.data.digits.Digits`.
for _module in ("cifar", "digits", "fashion_mnist", "image_folder", "moving_digits", "news", "tabular", "text_files"):
    sys.modules[f"{__name__}.{_module}"] = sys.modules[__name__]
