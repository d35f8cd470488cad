"""Splitting off validation and test samples, stratified by class."""

from typing import Protocol, Self, TypeVar

import numpy as np

from src.data.errors import DataError


def held_out_counts(class_counts: np.ndarray, fraction: float) -> np.ndarray:
    """The number of samples of each class to hold out: (num_classes,) -> (num_classes,).

    Largest remainder: the total is as near to `fraction` of all samples as whole samples allow. Each class keeps at
    least one sample, so a class with a single sample is never held out; scikit-learn's stratified splits refuse it.
    """
    quota = class_counts * fraction
    counts = np.minimum(np.floor(quota).astype(np.int64), np.maximum(class_counts - 1, 0))
    missing = round(float(quota.sum())) - int(counts.sum())
    for index in np.argsort(counts - quota, kind="stable"):
        if missing <= 0:
            break
        if counts[index] + 1 < class_counts[index]:
            counts[index] += 1
            missing -= 1
    return counts


def stratified_split(labels: np.ndarray, fraction: float, seed: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Sorted row numbers (kept, held out) of a split of `labels` (N,), fixed by `seed`.

    Each class gives about `fraction` of its samples; a class with a single sample stays in the kept part.

    Raises:
        DataError: nothing would be held out.
    """
    rng = np.random.default_rng(seed)
    counts = held_out_counts(np.bincount(labels), fraction)
    if counts.sum() == 0:
        raise DataError(
            f"{fraction:.4g} of {len(labels)} samples in {len(np.unique(labels))} classes leaves the {name} "
            f"split empty: expected a class with at least two samples and a fraction that makes one whole "
            f"sample. Give more samples per class, raise --data.{name}_fraction, or bring a {name} split."
        )
    held_out = np.concatenate(
        [rng.permutation(np.flatnonzero(labels == index))[:count] for index, count in enumerate(counts) if count]
    )
    held_out.sort()
    return np.setdiff1d(np.arange(len(labels)), held_out), held_out


class Splittable(Protocol):
    """Samples with labels; `take` selects some of the rows."""

    @property
    def labels(self) -> np.ndarray:
        """(N,) int64."""

    def take(self, rows: np.ndarray) -> Self:
        """These rows only."""


Samples = TypeVar("Samples", bound=Splittable)


def split_off_missing(
    splits: dict[str, Samples], val_fraction: float, test_fraction: float, seed: int
) -> dict[str, Samples]:
    """Split "test" and "val" off "train" where `splits` lacks them, stratified by class.

    Both fractions are shares of the samples that "train" has at the start.
    """
    splits = dict(splits)
    if "test" not in splits:
        kept, held_out = stratified_split(splits["train"].labels, test_fraction, seed, "test")
        splits["train"], splits["test"] = splits["train"].take(kept), splits["train"].take(held_out)
        val_fraction /= 1 - test_fraction
    if "val" not in splits:
        kept, held_out = stratified_split(splits["train"].labels, val_fraction, seed, "val")
        splits["train"], splits["val"] = splits["train"].take(kept), splits["train"].take(held_out)
    return splits
