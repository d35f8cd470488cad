"""Handwritten digits that ship inside scikit-learn: no download, seconds to train."""

import numpy as np

from src.data.images import ImageData, ImageDataset
from src.data.scaling import ScalingName


class Digits(ImageData):
    """1,797 handwritten digits, gray, 8x8; the values 0..16 of scikit-learn are stretched to 0..255.

    The UCI "Optical Recognition of Handwritten Digits" test set. It has no official split: validation and
    test are split off, stratified by class.

    Args:
        scaling: "standardize" each channel, "minmax" to 0..1, or "none" for 0..255.
        crop_padding: in training, shift each image by up to so many pixels; 0 for none.
        flip: in training, mirror half of the images left to right.
        batch_size: samples per batch and process.
        num_workers: loader processes per process; 0 loads in the training process itself.
        root: unused; the digits come with scikit-learn.
        split_seed: fixes which samples are split off for validation and test.
        val_fraction: share of all samples that is held out for validation.
        test_fraction: share of all samples that is held out for the test.
        covariate_shift: in validation, test and prediction, brighten images by this share of 255; below 0, darken.
    """

    def __init__(
        self,
        scaling: ScalingName = "standardize",
        crop_padding: int = 1,
        flip: bool = False,
        batch_size: int = 64,
        num_workers: int = 0,
        root: str = "data",
        split_seed: int = 0,
        val_fraction: float = 0.15,
        test_fraction: float = 0.15,
        covariate_shift: float = 0.0,
    ):
        super().__init__(
            class_names=[str(digit) for digit in range(10)],
            in_channels=1,
            image_size=8,
            scaling=scaling,
            crop_padding=crop_padding,
            flip=flip,
            batch_size=batch_size,
            num_workers=num_workers,
            root=root,
            split_seed=split_seed,
            val_fraction=val_fraction,
            test_fraction=test_fraction,
            covariate_shift=covariate_shift,
        )

    def load(self) -> dict[str, ImageDataset]:
        """All digits, to be split."""
        from sklearn.datasets import load_digits  # a second, with pandas, that other data do not need

        digits = load_digits()
        images, labels = digits.images, digits.target  # (N, 8, 8), (N,)
        pixels = np.round(images * (255 / 16)).astype(np.uint8)
        return {"train": ImageDataset(pixels[:, None], labels)}
