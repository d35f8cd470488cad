"""A study's own figure: measures against an axis of the grid, with lines and panels for the other axes."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from src.compare.chart import looks
from src.compare.comparison import Row
from src.compare.figure_spec import ACCURACY, MEASURES, FigureSpec


def write_figure(path: Path, rows: Sequence[Row], spec: FigureSpec, measures: Sequence[str]) -> None:
    """Draw the means over the seeds, with a band from the lowest to the highest value, into a PNG.

    An arm of which no run finished has no point.
    """
    measures = spec.measures or ([*measures] if spec.x == MEASURES else [ACCURACY, *measures])
    if spec.panels == MEASURES:
        panels = [*measures]
    else:
        panels = list(dict.fromkeys(row.arm.labels[spec.panels] for row in rows)) if spec.panels else [""]
    figure = Figure(figsize=(1.5 + 4.5 * len(panels), 4.2), layout="constrained")
    all_axes = figure.subplots(1, len(panels), sharey=spec.panels != MEASURES, squeeze=False)[0]
    for axes, panel in zip(all_axes, panels, strict=True):
        shown = [row for row in rows if spec.panels in (None, MEASURES) or row.arm.labels[spec.panels] == panel]
        y = panel if spec.panels == MEASURES else spec.y
        _draw_lines(axes, shown, spec, y, measures)
        axes.set_title("" if spec.panels is None else panel if y == panel else f"{spec.panels}: {panel}")
    all_axes[0].set_ylabel("" if MEASURES in (spec.x, spec.panels) else spec.y)
    if spec.lines:
        all_axes[-1].legend(title=spec.lines, fontsize="small")
    figure.savefig(path, dpi=130)


def _draw_lines(axes: Axes, rows: Sequence[Row], spec: FigureSpec, y: str, measures: Sequence[str]) -> None:
    labels = list(dict.fromkeys(row.arm.labels[spec.lines] for row in rows)) if spec.lines else [""]
    places = list(measures) if spec.x == MEASURES else list(dict.fromkeys(row.arm.labels[spec.x] for row in rows))
    for index, label in enumerate(labels):
        line = [row for row in rows if spec.lines is None or row.arm.labels[spec.lines] == label]
        if spec.x == MEASURES:
            found = [(place, line[0].values(name)) for place, name in enumerate(measures)]
        else:
            found = [(places.index(row.arm.labels[spec.x]), row.values(y)) for row in line]
        points = [(x, list(values.values())) for x, values in found if values]
        color, style = looks(index)
        xs, means = [x for x, _ in points], [sum(values) / len(values) for _, values in points]
        axes.plot(xs, means, color=color, linestyle=style, marker="o", markersize=4, label=label)
        lows, highs = [min(values) for _, values in points], [max(values) for _, values in points]
        axes.fill_between(xs, lows, highs, color=color, alpha=0.15, linewidth=0)
    axes.set_xticks(range(len(places)), places)
    if spec.x == MEASURES:
        for tick in axes.get_xticklabels():
            tick.set(rotation=20, ha="right")
    axes.set_xlabel("" if spec.x == MEASURES else spec.x)
    axes.grid(alpha=0.3)
    if spec.log:
        axes.set_yscale("log")
