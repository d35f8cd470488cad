"""The user's own images, in a folder per class."""

from pathlib import Path

from src.data.files.folder_listing import list_classes, list_split, list_unlabelled
from src.data.files.pixel_cache import cached_pixels
from src.data.images import ImageData, ImageDataset
from src.data.scaling import ScalingName


class ImageFolder(ImageData):
    """The user's own images in RGB, a folder per class.

    They lie in `folder/train/<class>/` and optionally `folder/val/<class>/` and `folder/test/<class>/`. Splits
    that are missing are split off the training images; `folder/<class>/` without train/ works too.
    Images become RGB, are resized and center-cropped to a square, and are cached in `root/cache` as bytes; the
    cache is made anew when a file's name, size or time of change differs.

    Args:
        folder: the folder with the classes, or with train/ and perhaps val/ and test/.
        predict_dir: folder with images to predict, anywhere inside it; the test split if not given.
        image_size: height and width in pixels.
        scaling: "standardize" each channel, "minmax" to 0..1, or "none" for 0..255.
        crop_padding: in training, shift each image by up to so many pixels; 0 for none.
        flip: in training, mirror half of the images left to right.
        batch_size: samples per batch and process.
        num_workers: loader processes per process; 0 loads in the training process itself.
        root: folder where the cache lives.
        split_seed: fixes which samples are split off for validation and test.
        val_fraction: share of the training images that is held out for validation, if there is no val/.
        test_fraction: share of the training images that is held out for the test, if there is no test/.

    Raises:
        DataError: a folder is missing or empty, there are fewer than two classes, a class of val/ or test/ is
            not in train/, or (from prepare_data) a file is not a readable image.
    """

    def __init__(
        self,
        folder: str,
        predict_dir: str | None = None,
        image_size: int = 64,
        scaling: ScalingName = "standardize",
        crop_padding: int = 4,
        flip: bool = True,
        batch_size: int = 64,
        num_workers: int = 0,
        root: str = "data",
        split_seed: int = 0,
        val_fraction: float = 0.15,
        test_fraction: float = 0.15,
    ):
        base = Path(folder)
        train = base / "train" if (base / "train").is_dir() else base
        class_names = list_classes(train)
        super().__init__(
            class_names=class_names,
            in_channels=3,
            image_size=image_size,
            scaling=scaling,
            crop_padding=crop_padding,
            flip=flip,
            batch_size=batch_size,
            num_workers=num_workers,
            root=root,
            split_seed=split_seed,
            val_fraction=val_fraction,
            test_fraction=test_fraction,
        )
        folders = {"train": train}
        if train != base:
            folders |= {split: base / split for split in ("val", "test") if (base / split).is_dir()}
        self.listings = {split: list_split(path, class_names) for split, path in folders.items()}
        if predict_dir is not None:
            self.listings["predict"] = list_unlabelled(Path(predict_dir))

    @property
    def predict_names(self) -> list[str]:
        """The files of `predict_dir`, relative to it."""
        listing = self.listings.get("predict")
        if listing is None:
            return super().predict_names
        return [str(path.relative_to(listing.folder)) for path in listing.files]

    def prepare_data(self) -> None:
        """Decode the images unless a run has already."""
        self.load()

    def load(self) -> dict[str, ImageDataset]:
        """The splits that have a folder."""
        return {
            split: ImageDataset(cached_pixels(listing, self.image_size, self.root / "cache"), listing.labels)
            for split, listing in self.listings.items()
        }
