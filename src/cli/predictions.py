"""Predictions as a table."""

import csv
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, distributed

from src.data import publish, scratch_folder


def gather_predictions(share: Tensor) -> Tensor:
    """Of all N processes, in the dataset's order, the `(samples, classes)` of which each has every N-th."""
    if not distributed.is_initialized():
        return share
    shares: list[Tensor] = [share] * distributed.get_world_size()
    distributed.all_gather_object(shares, share)
    # Up to the first sample that is missing: limit_predict_batches can leave shares of any length.
    num_samples = min(len(part) * len(shares) + rank for rank, part in enumerate(shares))
    everything = share.new_empty(num_samples, *share.shape[1:])
    for rank, part in enumerate(shares):
        places = everything[rank :: len(shares)]
        places.copy_(part[: len(places)])
    return everything


def write_predictions(path: Path, probabilities: Tensor, names: Sequence[str], class_names: Sequence[str]) -> None:
    """Write a row per sample: its name, its likeliest class and how likely that is.

    Args:
        path: a CSV file, written whole or not at all.
        probabilities: `(samples, classes)`, in the dataset's order, perhaps of its first samples only.
        names: of all samples.
        class_names: of the classes.
    """
    confidence, predicted = (values.tolist() for values in probabilities.max(dim=1))
    with scratch_folder(path.parent) as scratch:
        with (scratch / path.name).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["sample", "class", "probability"])
            for name, label, share in zip(names, predicted, confidence, strict=False):
                writer.writerow([name, class_names[label], f"{share:.4f}"])
        publish(scratch / path.name, path)
