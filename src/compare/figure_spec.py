"""What stands where in a study's figure."""

from collections.abc import Sequence
from dataclasses import dataclass

from src.compare.grid import Axis

ACCURACY = "test accuracy"
MEASURES = "measures"


@dataclass(frozen=True)
class FigureSpec:
    """What stands where; each axis of the grid with several values has to stand somewhere.

    Args:
        x: an axis of the grid, or `measures`, each of which is then a place.
        lines: an axis of the grid, each value a line.
        panels: an axis of the grid, or `measures`, each a panel.
        y: the measure that is drawn where the measures are no axis.
        measures: which of them the axis has; null: all.
        log: a logarithmic scale for y.
    """

    x: str
    lines: str | None = None
    panels: str | None = None
    y: str = ACCURACY
    measures: list[str] | None = None
    log: bool = False

    def check(self, axes: Sequence[Axis], measures: Sequence[str]) -> None:
        """Raise a ValueError where the figure names what is not there, or leaves an axis out."""
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
            raise ValueError(f"figure: it does not say where {' and '.join(absent)} stand: x, lines or panels")
