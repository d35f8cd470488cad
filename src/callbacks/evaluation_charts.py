"""The confusion matrix and the mistakes of a classifier, as figures and tables for TensorBoard."""

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 4
MAX_NUMBERED = 20
"""The most classes with which the confusion matrix shows numbers; with more it shows colours only."""

MAX_NAMED = 60
"""The most classes with which the confusion matrix shows the names of the classes."""


class Mistake(NamedTuple):
    """A sample that is assigned to a wrong class."""

    row: int  # in its dataset
    true: str
    predicted: str
    probability: float  # of the predicted class
    loss: float

    def __str__(self) -> str:
        return f"{self.true}, not {self.predicted} ({self.probability:.0%})"


def confusion_figure(counts: np.ndarray, class_names: Sequence[str]) -> "Figure":
    """The number of samples by class (rows) and predicted class (columns); colours are shares of the row.

    torchmetrics' own plot colours by number, so that large classes hide the mistakes in small ones.
    """
    from matplotlib.figure import Figure

    size = min(3 + 0.2 * len(class_names), 14)
    figure = Figure(figsize=(size, size), dpi=90, layout="constrained")
    axes = figure.add_subplot(xlabel="predicted", ylabel="class", title=f"{counts.sum()} samples")
    shares = counts / counts.sum(1, keepdims=True).clip(min=1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if len(class_names) <= MAX_NAMED:
        axes.set_xticks(range(len(class_names)), class_names, rotation=90, fontsize=8)
        axes.set_yticks(range(len(class_names)), class_names, fontsize=8)
    if len(class_names) <= MAX_NUMBERED:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                colour = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, str(count), ha="center", va="center", fontsize=8, color=colour)
    return figure


def mistakes_figure(images: np.ndarray, mistakes: Sequence[Mistake]) -> "Figure":
    """Images `(N, C, H, W)`, uint8, titled with their classes."""
    from matplotlib.figure import Figure

    num_rows = -(-len(mistakes) // COLUMNS)
    figure = Figure(figsize=(2.4 * COLUMNS, 2.5 * num_rows), dpi=90)
    figure.subplots_adjust(0.01, 0.01, 0.99, 1 - 0.25 / (2.5 * num_rows), wspace=0.05, hspace=0.15)
    for number, (image, mistake) in enumerate(zip(images, mistakes, strict=True)):
        axes = figure.add_subplot(num_rows, COLUMNS, number + 1)
        axes.imshow(image.transpose(1, 2, 0) if len(image) == 3 else image[0], cmap="gray", vmin=0)
        axes.set_title(str(mistake), fontsize=11)
        axes.axis("off")
    return figure


def mistakes_table(texts: Sequence[str], mistakes: Sequence[Mistake], longest: int = 500) -> str:
    """A Markdown table of texts, cut off after `longest` characters, and their classes."""
    lines = ["| class | predicted | probability | text |", "| --- | --- | --- | --- |"]
    for text, mistake in zip(texts, mistakes, strict=True):
        shown = " ".join(text.split())
        shown = shown if len(shown) <= longest else f"{shown[:longest]} ..."
        cells = (mistake.true, mistake.predicted, f"{mistake.probability:.0%}", shown)
        lines.append(f"| {' | '.join(html.escape(cell).replace('|', '&#124;') for cell in cells)} |")
    return "\n".join(lines)
