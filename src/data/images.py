"""Images as bytes in memory; augmentation and scaling happen on the device, a batch at a time."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from src.data.augment import augment
from src.data.base import ClassificationData, require_at_least
from src.data.dataset import BatchDataset
from src.data.errors import DataError
from src.data.scaling import ScalingName, fit_scaling, value_counts


class ImageDataset(BatchDataset):
    """Some rows of an array of images.

    The splits share one array, which may be a memory-mapped file. Each split has its own rows.

    Args:
        pixels: (M, C, H, W) uint8.
        labels: (N,) int64.
        rows: (N,) which of the M images; all by default.
    """

    def __init__(self, pixels: np.ndarray, labels: np.ndarray, rows: np.ndarray | None = None):
        self.pixels = pixels
        self.labels = np.asarray(labels, dtype=np.int64)
        self.rows = np.arange(len(pixels)) if rows is None else rows

    def take(self, rows: np.ndarray) -> "ImageDataset":
        """A dataset of these rows only."""
        return ImageDataset(self.pixels, self.labels[rows], self.rows[rows])

    def batch(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) uint8 and (B,) int64."""
        images = torch.from_numpy(self.pixels[self.rows[indices]])
        return images, torch.from_numpy(self.labels[indices])


class ImageData(ClassificationData):
    """Square images in batches: float32 (N, C, H, W) and labels (N,).

    Images move to the device as bytes. There a batch is scaled by statistics of the training split. In training it is
    augmented before that, each sample in its own way. A source gives an `ImageDataset` for each split in `load`.

    Args:
        class_names: the classes in the order of their labels.
        in_channels: 1 for gray images, 3 for RGB.
        image_size: height and width in pixels.
        scaling: "standardize" each channel, "minmax" to 0..1, or "none" for 0..255.
        crop_padding: in training, shift each image by up to this many pixels; 0 for none.
        flip: in training, mirror half of the images left to right.
        covariate_shift: in validation, test and prediction, brighten images by this share of 255; below 0, darken.
    """

    modality = "images"

    def __init__(
        self,
        class_names: Sequence[str],
        in_channels: int,
        image_size: int,
        scaling: ScalingName = "standardize",
        crop_padding: int = 4,
        flip: bool = True,
        covariate_shift: float = 0.0,
        **options: Any,
    ):
        super().__init__(class_names=class_names, **options)
        require_at_least(1, image_size=image_size)
        require_at_least(0, crop_padding=crop_padding)
        if not -1 <= covariate_shift <= 1:
            raise DataError(
                f"covariate_shift={covariate_shift}: expected a share of the brightness, -1 to 1. Set "
                "--data.covariate_shift."
            )
        self.in_channels = in_channels
        self.image_size = image_size
        self.scaling: ScalingName = scaling
        self.crop_padding = crop_padding
        self.flip = flip
        self.covariate_shift = covariate_shift

    @property
    def in_features(self) -> int:
        """The number of values in an image."""
        return self.in_channels * self.image_size**2

    def make_datasets(self) -> dict[str, ImageDataset]:
        """All splits; the scaling is fitted on the training split."""
        datasets = self.load_splits()
        train = datasets["train"]
        self._fitted_scaling = fit_scaling(self.scaling, value_counts(train.pixels, train.rows))
        return datasets

    def brighten(self, images: Tensor) -> Tensor:
        """Brighten a batch by `covariate_shift` for evaluation, before it is scaled: 0..255 -> 0..255."""
        if not self.covariate_shift:
            return images
        return (images.float() + 255 * self.covariate_shift).clamp_(0, 255)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """Augment (in training) and scale a batch on its device: uint8 -> float32, (N, C, H, W)."""
        images, labels = batch
        if self.trainer and self.trainer.training:
            images = augment(images, self.crop_padding, self.flip)
        else:
            images = self.brighten(images)
        self._fitted_scaling = self._fitted_scaling.to(images.device)
        images = self._fitted_scaling(images)
        if self.trainer:
            # Lightning converts floats to the run's precision (bf16-true) before a batch moves, when images are bytes.
            images = self.trainer.precision_plugin.convert_input(images)
        return images, labels
