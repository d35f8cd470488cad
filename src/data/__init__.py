"""Data: every dataset is a LightningDataModule that gives batches `(inputs, labels)`."""

from src.data.arrays import ArrayData, ArrayDataset
from src.data.atomic import publish, scratch_folder
from src.data.base import ClassificationData
from src.data.cifar import CIFAR10, CIFAR100
from src.data.digits import Digits
from src.data.errors import DataError
from src.data.fashion_mnist import FashionMNIST
from src.data.image_folder import ImageFolder
from src.data.images import ImageData
from src.data.moving_digits import MovingDigits
from src.data.news import Newsgroups20, Reuters8, Reuters52
from src.data.tabular import BreastCancer, TabularData, Wine
from src.data.text import TextData
from src.data.text_files import TextFiles

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
