"""The predictions of all processes as one table.

Lightning's BasePredictionWriter gives each process only its own share.
"""

import csv
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, distributed

from src.data import publish, scratch_folder


def gather_predictions(share: Tensor) -> Tensor:
    """The predictions `(samples, classes)` of all N processes in the dataset's order; each process has every N-th."""
    if not distributed.is_initialized():
        return share
    shares: list[Tensor] = [share] * distributed.get_world_size()
    distributed.all_gather_object(shares, share)
    # Cut off before the first missing sample: with limit_predict_batches the shares can have any lengths.
    num_samples = min(len(part) * len(shares) + rank for rank, part in enumerate(shares))
    everything = share.new_empty(num_samples, *share.shape[1:])
    for rank, part in enumerate(shares):
        places = everything[rank :: len(shares)]
        places.copy_(part[: len(places)])
    return everything


def write_predictions(path: Path, probabilities: Tensor, names: Sequence[str], class_names: Sequence[str]) -> None:
    """Write a row per sample: its name, its most probable class and the probability.

    Args:
        path: a CSV file, which is written whole or not at all.
        probabilities: `(samples, classes)`, in the dataset's order; may end before its last sample.
        names: the name of each sample of the dataset.
        class_names: the name of each class.
    """
    confidence, predicted = (values.tolist() for values in probabilities.max(dim=1))
    with scratch_folder(path.parent) as scratch:
        with (scratch / path.name).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["sample", "class", "probability"])
            for name, label, probability in zip(names, predicted, confidence, strict=False):
                writer.writerow([name, class_names[label], f"{probability:.4f}"])
        publish(scratch / path.name, path)
