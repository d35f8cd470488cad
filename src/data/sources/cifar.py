"""CIFAR-10 and CIFAR-100 in the python format of their authors."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torchvision import datasets
from torchvision.datasets.utils import check_integrity

from src.data.errors import DataError
from src.data.files.atomic_write import publish, scratch_folder
from src.data.images import ImageData, ImageDataset

CIFAR10_CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
CIFAR100_CLASSES = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
    castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
    elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard
    lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear
    pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal
    shark shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank
    telephone television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
""".split()  # noqa: SIM905  # a name per line would fill the file


def download(source: type[datasets.CIFAR10], root: Path) -> None:
    """Download the archive and unpack it in `root`, where its folder appears only when it is complete."""
    with scratch_folder(root) as scratch:
        try:
            source(str(scratch), download=True)
        except (OSError, RuntimeError) as error:
            raise DataError(
                f"{source.__name__} is not there and could not be downloaded ({error}). Looked for the folder "
                f"{root / source.base_folder}. Download {source.url} (md5 {source.tgz_md5}) elsewhere and unpack "
                f"it in {root}, or point --data.root at the folder that holds {source.base_folder}."
            ) from error
        publish(scratch / source.base_folder, root / source.base_folder)


def read(source: type[datasets.CIFAR10], root: Path, train: bool) -> ImageDataset:
    """The images and labels of the training or the test samples.

    Raises:
        DataError: a file is missing, or its content is not that of the original file.
    """
    try:
        with warnings.catch_warnings():
            # The files hold a dtype's flags as integers; numpy 2.4.0 warns of that (pytorch/vision issue 9340).
            warnings.simplefilter("ignore", np.exceptions.VisibleDeprecationWarning)
            found = source(str(root), train)
    except RuntimeError as error:  # which does not say what is wrong
        folder = root / source.base_folder
        files = [*source.train_list, *source.test_list, (source.meta["filename"], source.meta["md5"])]
        wrong = [name for name, md5 in files if not check_integrity(folder / name, md5)]
        raise DataError(
            f"{folder}: these files are missing, damaged or were changed: {', '.join(wrong)}. Delete the folder and "
            "run again to fetch it anew, or unpack the original archive in its place."
        ) from error
    return ImageDataset(found.data.transpose(0, 3, 1, 2), np.array(found.targets))


class CIFAR(ImageData):
    """The base class of CIFAR-10 and CIFAR-100: the format and the 50,000 + 10,000 images of 32x32."""

    source: ClassVar[type[datasets.CIFAR10]]
    names: ClassVar[Sequence[str]]

    def __init__(self, root: str = "data", val_fraction: float = 0.1, **options: Any):
        """Documented here, not in the class: for CIFAR10 jsonargparse 4.50 does not look at its base's docstring.

        Args:
            root: folder that holds cifar-10-batches-py or cifar-100-python.
            val_fraction: share of the training samples that is held out for validation.
        """
        super().__init__(
            class_names=self.names,
            in_channels=3,
            image_size=32,
            covariate_shift=0.0,  # an option of the gray images
            root=root,
            val_fraction=val_fraction,
            test_fraction=0.0,  # the test split is official
            **options,
        )

    def prepare_data(self) -> None:
        """Download the archive, unless its folder is there."""
        if not (self.root / self.source.base_folder).is_dir():
            download(self.source, self.root)

    def load(self) -> dict[str, ImageDataset]:
        """The official training and test samples."""
        return {split: read(self.source, self.root, split == "train") for split in ("train", "test")}


class CIFAR10(CIFAR):
    """60,000 photographs in 10 classes, RGB, 32x32: 50,000 to train and 10,000 to test.

    It is read from `root/cifar-10-batches-py`, and downloaded if it is not there. Krizhevsky, 2009
    (https://www.cs.toronto.edu/~kriz/learning-features-2009-TR.pdf).
    """

    source = datasets.CIFAR10
    names = CIFAR10_CLASSES


class CIFAR100(CIFAR):
    """60,000 photographs in 100 classes, RGB, 32x32: 50,000 to train and 10,000 to test.

    It is read from `root/cifar-100-python`, and downloaded if it is not there. The labels are the fine ones.
    Krizhevsky, 2009 (https://www.cs.toronto.edu/~kriz/learning-features-2009-TR.pdf).
    """

    source = datasets.CIFAR100
    names = CIFAR100_CLASSES
