"""CIFAR-10 and CIFAR-100 in the python format of their authors."""

import pickle
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from torchvision import datasets

from src.data.errors import DataError
from src.data.files.atomic_write import publish, scratch_folder
from src.data.files.verify import read_verified
from src.data.images import ImageData, ImageDataset
from src.data.scaling import ScalingName

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
    """Fetch and unpack the archive to `root`; the folder appears there only when it is complete."""
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


def read_batches(folder: Path, files: Sequence[Sequence[str]]) -> ImageDataset:
    """The images and labels of some of the archive's files."""
    pixels, labels = [], []
    for name, md5 in files:
        if not (folder / name).is_file():
            raise DataError(
                f"{folder} lacks the file {name}. Delete the folder and run again to fetch it anew, or unpack "
                "the original archive in its place."
            )
        content = read_verified(folder / name, "md5", md5)
        with warnings.catch_warnings():
            # The files hold a dtype's flags as integers, of which numpy 2.4.0 warns (pytorch/vision issue 9340).
            warnings.simplefilter("ignore", np.exceptions.VisibleDeprecationWarning)
            batch = pickle.loads(content, encoding="latin1")
        pixels.append(batch["data"])
        labels.append(batch["labels"] if "labels" in batch else batch["fine_labels"])
    return ImageDataset(np.concatenate(pixels).reshape(-1, 3, 32, 32), np.concatenate(labels))


class CIFAR(ImageData):
    """What CIFAR-10 and CIFAR-100 share: the format and the 50,000 + 10,000 images of 32x32.

    Args:
        scaling: "standardize" each channel, "minmax" to 0..1, or "none" for 0..255.
        crop_padding: in training, shift each image by up to so many pixels; 0 for none.
        flip: in training, mirror half of the images left to right.
        batch_size: samples per batch and process.
        num_workers: loader processes per process; 0 loads in the training process itself.
        root: folder that holds cifar-10-batches-py or cifar-100-python.
        split_seed: fixes which training samples are held out for validation.
        val_fraction: share of the training samples that is held out for validation.
    """

    source: ClassVar[type[datasets.CIFAR10]]
    names: ClassVar[Sequence[str]]

    def __init__(
        self,
        scaling: ScalingName = "standardize",
        crop_padding: int = 4,
        flip: bool = True,
        batch_size: int = 64,
        num_workers: int = 0,
        root: str = "data",
        split_seed: int = 0,
        val_fraction: float = 0.1,
    ):
        super().__init__(
            class_names=self.names,
            in_channels=3,
            image_size=32,
            scaling=scaling,
            crop_padding=crop_padding,
            flip=flip,
            batch_size=batch_size,
            num_workers=num_workers,
            root=root,
            split_seed=split_seed,
            val_fraction=val_fraction,
        )

    def prepare_data(self) -> None:
        """Download the archive unless its folder is there."""
        if not (self.root / self.source.base_folder).is_dir():
            download(self.source, self.root)

    def load(self) -> dict[str, ImageDataset]:
        """The official training and test samples."""
        folder = self.root / self.source.base_folder
        return {
            "train": read_batches(folder, self.source.train_list),
            "test": read_batches(folder, self.source.test_list),
        }


class CIFAR10(CIFAR):
    """60,000 photographs in 10 classes, RGB, 32x32: 50,000 to train and 10,000 to test.

    Looked for in `root/cifar-10-batches-py`, else downloaded. Krizhevsky, 2009
    (https://www.cs.toronto.edu/~kriz/learning-features-2009-TR.pdf).
    """

    source = datasets.CIFAR10
    names = CIFAR10_CLASSES


class CIFAR100(CIFAR):
    """60,000 photographs in 100 classes, RGB, 32x32: 50,000 to train and 10,000 to test.

    Looked for in `root/cifar-100-python`, else downloaded. The labels are the fine ones. Krizhevsky, 2009
    (https://www.cs.toronto.edu/~kriz/learning-features-2009-TR.pdf).
    """

    source = datasets.CIFAR100
    names = CIFAR100_CLASSES
