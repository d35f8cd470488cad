"""The axes of a study's figure."""

from collections.abc import Sequence
from dataclasses import dataclass

from src.compare.grid import Axis

ACCURACY = "test accuracy"
MEASURES = "measures"


@dataclass(frozen=True)
class FigureSpec:
    """The axes of a study's figure. It has to show each axis of the grid that has several values.

    Args:
        x: an axis of the grid, or `measures` for one tick for each measure.
        lines: an axis of the grid; each of its values is a line.
        panels: an axis of the grid, or `measures`; each value is a panel.
        y: the measure to draw, unless x or panels are the measures.
        measures: the measures to show on x or in panels; null for all.
        log: whether y has a logarithmic scale.
    """

    x: str
    lines: str | None = None
    panels: str | None = None
    y: str = ACCURACY
    measures: list[str] | None = None
    log: bool = False

    def check(self, axes: Sequence[Axis], measures: Sequence[str]) -> None:
        """Raise a ValueError if the figure names an axis or measure that does not exist, or leaves an axis out."""
        names = [axis.name for axis in axes]
        for part, known in (("x", [*names, MEASURES]), ("lines", names), ("panels", [*names, MEASURES])):
            if (value := getattr(self, part)) is not None and value not in known:
                raise ValueError(f"figure.{part}={value}: expected one of {', '.join(known)}")
        for name in (self.y, *(self.measures or ())):
            if name not in (ACCURACY, *measures):
                raise ValueError(f"figure shows '{name}': expected one of {', '.join((ACCURACY, *measures))}")
        absent = [
            axis.name for axis in axes if len(axis.values) > 1 and axis.name not in (self.x, self.lines, self.panels)
        ]
        if absent:
            raise ValueError(f"figure does not show {' and '.join(absent)}: name it in x, lines or panels")
