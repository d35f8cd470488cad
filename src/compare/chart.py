"""The chart of a comparison: curves of validation accuracy, and test accuracies with their intervals."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from src.compare.comparison import Row
from src.compare.estimates import estimate
from src.compare.figure_spec import ACCURACY

# Okabe and Ito's palette without yellow, which is faint on white. More arms than colors get other line styles.
COLORS = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000"]
STYLES = ["-", "--", ":", "-."]
MAX_LEGEND = 10
"""The most arms with a legend. With more arms, the colored names beside the results identify the lines."""


def looks(index: int) -> tuple[str, str]:
    """The color and the line style of an arm by its index."""
    return COLORS[index % len(COLORS)], STYLES[index // len(COLORS) % len(STYLES)]


def draw_curves(axes: Axes, rows: Sequence[Row]) -> None:
    """Draw validation accuracy by epoch: the mean over the seeds, and a band from the lowest to the highest."""
    for index, row in enumerate(rows):
        curves = [run.measures.val_accuracy for run in row.finished]
        epochs = sorted(set.intersection(*map(set, curves))) if curves else []
        if not epochs:
            continue
        color, style = looks(index)
        values = [[curve[epoch] for curve in curves] for epoch in epochs]
        means = [sum(each) / len(each) for each in values]
        axes.plot(epochs, means, color=color, linestyle=style, marker=".", label=row.arm.name)
        axes.fill_between(epochs, [*map(min, values)], [*map(max, values)], color=color, alpha=0.15, linewidth=0)
    axes.set_xlabel("epoch")
    axes.set_ylabel("validation accuracy")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if len(axes.lines) in range(1, MAX_LEGEND + 1):
        axes.legend(loc="best", fontsize="small")
    axes.set_title("Mean over seeds, lowest to highest", fontsize="medium")


def draw_results(axes: Axes, rows: Sequence[Row]) -> None:
    """Draw test accuracy: a point for each seed, and the mean with its 95% interval."""
    for index, row in enumerate(rows):
        values = list(row.values(ACCURACY).values())
        found, (color, _) = estimate(values), looks(index)
        axes.plot(values, [index - 0.18] * len(values), "o", color=color, markersize=4, alpha=0.6, linestyle="none")
        if found:
            axes.errorbar([found.mean], [index], xerr=found.margin, fmt="D", color=color, capsize=4, markersize=6)
    axes.set_yticks(range(len(rows)), [row.arm.name for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel("test accuracy")
    axes.set_title("Each seed, and the mean with its 95% interval", fontsize="medium")


def write_chart(path: Path, rows: Sequence[Row], title: str) -> None:
    """Draw curves and results side by side into a PNG. The names of the arms at the results have the colors of both."""
    figure = Figure(figsize=(12, max(4.0, 1.5 + 0.45 * len(rows))), layout="constrained")
    left, right = figure.subplots(1, 2)
    draw_curves(left, rows)
    draw_results(right, rows)
    for tick, index in zip(right.get_yticklabels(), range(len(rows)), strict=True):
        tick.set_color(looks(index)[0])
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.suptitle(title)
    figure.savefig(path, dpi=150)
