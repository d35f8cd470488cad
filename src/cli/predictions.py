"""Predictions as a table."""

import csv
from pathlib import Path

import torch
from torch import Tensor


def write_predictions(path: Path, probabilities: Tensor, order: list[int], class_names: list[str]) -> None:
    """Write one row per sample, in the dataset's order: its index, the likeliest class, and how likely it is.

    Args:
        path: a CSV file, written whole or not at all.
        probabilities: `(samples, classes)`, as they were computed.
        order: the dataset's index of each of these.
        class_names: names of the classes.
    """
    confidence, predicted = probabilities.max(dim=1)
    unfinished = path.with_suffix(".unfinished")
    with unfinished.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["index", "class", "probability"])
        for row in torch.tensor(order).argsort().tolist():
            writer.writerow([order[row], class_names[int(predicted[row])], f"{confidence[row]:.4f}"])
    unfinished.replace(path)
