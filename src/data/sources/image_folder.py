"""The user's own images, in a folder per class."""

from pathlib import Path
from typing import Any

from src.data.files.folder_listing import list_classes, list_split, list_unlabelled
from src.data.files.pixel_cache import cached_pixels
from src.data.images import ImageData, ImageDataset


class ImageFolder(ImageData):
    """The user's own images in RGB, a folder per class.

    Images lie in `folder/train/<class>/` and optionally `folder/val/<class>/` and `folder/test/<class>/`. Missing
    splits are split off the training images; `folder/<class>/` without train/ works too.
    Images are converted to RGB, resized and center-cropped to a square, and cached in `root/cache` as bytes. They are
    decoded anew when a file's name, size or time of change differs.

    Args:
        folder: the folder with the classes, or with train/ and perhaps val/ and test/.
        predict_dir: folder with images to predict, at any depth; the test split is predicted if it is not given.
        image_size: height and width in pixels.

    Raises:
        DataError: a folder is missing or empty, there are fewer than two classes, a class of val/ or test/ is
            not in train/, or (from prepare_data) a file is not a readable image.
    """

    def __init__(self, folder: str, predict_dir: str | None = None, image_size: int = 64, **options: Any):
        base = Path(folder)
        train = base / "train" if (base / "train").is_dir() else base
        class_names = list_classes(train)
        super().__init__(
            class_names=class_names,
            in_channels=3,
            image_size=image_size,
            covariate_shift=0.0,  # an option of the gray images
            **options,
        )
        folders = {"train": train}
        if train != base:
            folders |= {split: base / split for split in ("val", "test") if (base / split).is_dir()}
        self.listings = {split: list_split(path, class_names) for split, path in folders.items()}
        if predict_dir is not None:
            self.listings["predict"] = list_unlabelled(Path(predict_dir))

    @property
    def predict_names(self) -> list[str]:
        """The files of `predict_dir`, by their paths below it."""
        listing = self.listings.get("predict")
        if listing is None:
            return super().predict_names
        return [str(path.relative_to(listing.folder)) for path in listing.files]

    def prepare_data(self) -> None:
        """Decode the images, unless the cache has them."""
        self.load()

    def load(self) -> dict[str, ImageDataset]:
        """The splits that have a folder."""
        return {
            split: ImageDataset(cached_pixels(listing, self.image_size, self.root / "cache"), listing.labels)
            for split, listing in self.listings.items()
        }
