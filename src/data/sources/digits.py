"""Handwritten digits that ship inside scikit-learn: no download, seconds to train."""

from typing import Any

import numpy as np

from src.data.images import ImageData, ImageDataset


def read_digits() -> tuple[np.ndarray, np.ndarray]:
    """The images, (N, 8, 8) uint8 with scikit-learn's values 0..16 stretched to 0..255, and the digits (N,)."""
    from sklearn.datasets import load_digits  # imports pandas: a second that other data do not need

    digits = load_digits()
    return np.round(digits.images * (255 / 16)).astype(np.uint8), digits.target


class Digits(ImageData):
    """1,797 handwritten digits, gray, 8x8; the values 0..16 of scikit-learn are stretched to 0..255.

    The UCI "Optical Recognition of Handwritten Digits" test set. It has no official split: validation and
    test are split off, stratified by class.

    Args:
        crop_padding: in training, shift each image by up to this many pixels; 0 for none.
        flip: in training, mirror half of the images left to right.
    """

    def __init__(self, crop_padding: int = 1, flip: bool = False, **options: Any):
        super().__init__(
            class_names=[str(digit) for digit in range(10)],
            in_channels=1,
            image_size=8,
            crop_padding=crop_padding,
            flip=flip,
            **options,
        )

    def load(self) -> dict[str, ImageDataset]:
        """All digits, to be split."""
        images, digits = read_digits()
        return {"train": ImageDataset(images[:, None], digits)}
