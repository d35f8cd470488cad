"""Fashion-MNIST from its four original files."""

import gzip
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from torchvision import datasets

from src.data.errors import DataError
from src.data.files.atomic_write import publish, scratch_folder
from src.data.files.verify import MEND, require_digest
from src.data.images import ImageData, ImageDataset

# The md5 of each decompressed file: packages such as Debian's compress the files anew, which changes only the .gz.
CONTENT_MD5 = {
    "train-images-idx3-ubyte.gz": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte.gz": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte.gz": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte.gz": "15d484375f8d13e6eb1aabb0c3f46965",
}
# Where torchvision puts its download, below root.
TORCHVISION_FOLDER = Path("FashionMNIST", "raw")
# Debian's package and most mirrors keep the four files in one folder: the top one, or one of this name.
FOLDERS = (Path("."), Path("fashion-mnist"), TORCHVISION_FOLDER)


def find_folder(root: Path) -> Path | None:
    """The first of FOLDERS below `root` that holds all four files, or None."""
    for folder in FOLDERS:
        if all((root / folder / name).is_file() for name in CONTENT_MD5):
            return root / folder
    return None


def download(root: Path) -> None:
    """Download the four files to torchvision's folder below `root`, where each appears only when it is complete."""
    with scratch_folder(root) as scratch:
        try:
            datasets.FashionMNIST(str(scratch), download=True)
        except (OSError, RuntimeError) as error:
            names = ", ".join(CONTENT_MD5)
            reason = " ".join(str(error).split())
            places = ", ".join(str(root / folder) for folder in FOLDERS)
            raise DataError(
                f"Fashion-MNIST is not there and could not be downloaded ({reason}). Looked for {names} together "
                f"in one of {places}. Get them from https://github.com/zalandoresearch/fashion-mnist or, on "
                "Debian, install dataset-fashion-mnist and pass --data.root=/usr/share/datasets/fashion-mnist."
            ) from error
        for name in CONTENT_MD5:
            publish(scratch / TORCHVISION_FOLDER / name, root / TORCHVISION_FOLDER / name)


def read_idx(folder: Path, name: str) -> np.ndarray:
    """One original file as an array: (N, 28, 28) or (N,), uint8.

    torchvision's reader is not used: it takes only decompressed files, and nothing is written where the files are
    found.

    Raises:
        DataError: the content is not that of the original file.
    """
    path = folder / name
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be decompressed ({error}). {MEND}") from error
    require_digest(content, path, "md5", CONTENT_MD5[name])
    # Big endian: two zero bytes, the type, the number of dimensions, then the size of each dimension.
    num_dimensions = content[3]
    shape = np.frombuffer(content, dtype=">u4", count=num_dimensions, offset=4)
    return np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * num_dimensions).reshape(shape)


class FashionMNIST(ImageData):
    """70,000 photographs of clothing in 10 classes, gray, 28x28: 60,000 to train and 10,000 to test.

    The four original files are looked for in `root`, `root/fashion-mnist` and `root/FashionMNIST/raw`. If none of these
    has them, they are downloaded to the last folder. Nothing is written where they are found. Xiao et al., 2017
    (https://arxiv.org/abs/1708.07747).

    Args:
        root: folder that holds the files; with Debian's package, /usr/share/datasets/fashion-mnist.
        crop_padding: in training, shift each image by up to this many pixels; 0 for none.
        val_fraction: share of the training samples that is held out for validation; 1/12 is 5,000.
    """

    def __init__(self, root: str = "data", crop_padding: int = 2, val_fraction: float = 1 / 12, **options: Any):
        super().__init__(
            class_names=datasets.FashionMNIST.classes,
            in_channels=1,
            image_size=28,
            root=root,
            crop_padding=crop_padding,
            val_fraction=val_fraction,
            test_fraction=0.0,  # the test split is official
            **options,
        )

    def prepare_data(self) -> None:
        """Download the files, unless they are there."""
        if find_folder(self.root) is None:
            download(self.root)

    def load(self) -> dict[str, ImageDataset]:
        """The official training and test samples."""
        folder = find_folder(self.root)
        if folder is None:
            raise DataError(
                f"Fashion-MNIST is not below {os.path.abspath(self.root)}. Call prepare_data() first: it "
                "downloads what is missing."
            )
        splits = {"train": "train", "test": "t10k"}
        return {
            split: ImageDataset(
                read_idx(folder, f"{prefix}-images-idx3-ubyte.gz")[:, None],
                read_idx(folder, f"{prefix}-labels-idx1-ubyte.gz"),
            )
            for split, prefix in splits.items()
        }
