"""The charts and heat maps of the statistics of norms in TensorBoard."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LINES_PER_CHART = 10
MAX_COLUMNS = 400
"""The most steps in a heat map."""


class Quantity(NamedTuple):
    """A quantity that is shown for each layer."""

    title: str
    scale: str  # of the colours in its heat map: symmetric about 0, logarithmic, or a share from 0 to 1


QUANTITIES = {
    "input_mean": Quantity("Input, mean", "symmetric"),
    "input_std": Quantity("Input, standard deviation", "log"),
    "output_mean": Quantity("Output, mean", "symmetric"),
    "output_std": Quantity("Output, standard deviation", "log"),
    "gradient_norm": Quantity("Gradient at the output, norm", "log"),
    "eval_gap": Quantity("Eval gap: running against batch statistics, in deviations", "log"),
    "stuck_share": Quantity("Share of dead or saturated channels", "share"),
    "weight_norm": Quantity("Weight, norm", "log"),
    "weight_gradient_norm": Quantity("Gradient of the weight, norm", "log"),
    "bias_norm": Quantity("Bias, norm", "log"),
    "bias_gradient_norm": Quantity("Gradient of the bias, norm", "log"),
}


def tag(quantity: str, layer: str) -> str:
    """The tag of a scalar."""
    return f"norms/{quantity}/{layer or 'model'}"


def escaped(name: str) -> str:
    """A regular expression for a tag; the dot is the only special character in names of layers."""
    return f"^{name.replace('.', '[.]')}$"


def custom_scalars_layout(found: Mapping[str, Sequence[str]]) -> dict[str, dict[str, list[Any]]]:
    """The layout of the page CUSTOM SCALARS: a category for each quantity, with charts of at most ten layers each.

    Args:
        found: the layers that have each quantity, in the order in which they run.
    """
    page: dict[str, dict[str, list[Any]]] = {}
    for key, layers in found.items():
        num_charts = math.ceil(len(layers) / LINES_PER_CHART)
        charts = {}
        for part in np.array_split(np.array(layers), num_charts):
            title = str(part[0]) if len(part) == 1 else f"{part[0]} to {part[-1]}"
            charts[title] = ["Multiline", [escaped(tag(key, layer)) for layer in part]]
        page[f"Norms. {QUANTITIES[key].title}"] = charts
    return page


class History:
    """The measures of all steps, for heat maps. A long history keeps every second step."""

    def __init__(self) -> None:
        self._rows: list[tuple[int, dict[tuple[str, str], float]]] = []

    def __len__(self) -> int:
        return len(self._rows)

    def append(self, step: int, values: Mapping[tuple[str, str], float]) -> None:
        """Add the values of a step, by quantity and layer."""
        self._rows.append((step, dict(values)))
        if len(self._rows) > MAX_COLUMNS:
            del self._rows[1::2]

    def heat_maps(self, found: Mapping[str, Sequence[str]]) -> dict[str, "Figure"]:
        """A heat map of layers against steps for each quantity; `found` has the layers of each quantity."""
        steps = [step for step, _ in self._rows]
        return {
            key: heat_map(
                key,
                layers,
                steps,
                np.array([[row.get((key, name), np.nan) for _, row in self._rows] for name in layers]),
            )
            for key, layers in found.items()
        }


def colours(scale: str, values: np.ndarray) -> dict[str, Any]:
    """The colour map and its range as options of `imshow`; values that are not finite have no colour."""
    from matplotlib.colors import LogNorm

    seen = values[np.isfinite(values)]
    if scale == "symmetric":
        most = float(np.abs(seen).max(initial=1e-9))
        return {"cmap": "RdBu_r", "vmin": -most, "vmax": most}
    if scale == "share":
        return {"cmap": "viridis", "vmin": 0, "vmax": 1}
    low, high = (float(seen.min()), float(seen.max())) if len(seen) else (0.0, 0.0)
    if high < 10 * low or high <= 0:
        return {"cmap": "viridis", "vmin": low, "vmax": max(high, low + 1e-9)}
    # Six decades below the largest value are enough: smaller values hardly matter, and would use up the colours.
    return {"cmap": "viridis", "norm": LogNorm(max(float(seen[seen > 0].min()), high / 1e6), high, clip=True)}


def heat_map(key: str, layers: Sequence[str], steps: Sequence[int], values: np.ndarray) -> "Figure":
    """A picture of `values`, (layers, steps)."""
    from matplotlib.figure import Figure

    width, height = 7.0, 1.2 + 0.17 * max(len(layers), 6)  # inches, names and title included
    left = 0.2 + 0.062 * max(map(len, layers))
    figure = Figure(figsize=(width, height), dpi=90)
    figure.subplots_adjust(left / width, 0.5 / height, 1 - 0.2 / width, 1 - 0.4 / height)
    axes = figure.add_subplot()
    options = colours(QUANTITIES[key].scale, values)
    if "norm" in options:
        values = np.where(values == 0, options["norm"].vmin, values)  # 0 has no logarithm
    shown = axes.imshow(values, aspect="auto", interpolation="nearest", **options)
    axes.set_facecolor("lightgray")  # shows where a value is not finite
    axes.set_title(QUANTITIES[key].title)
    axes.set_xlabel("step")
    columns = range(0, len(steps), math.ceil(len(steps) / 12))
    axes.set_xticks(columns, [str(steps[column]) for column in columns])
    axes.set_yticks(range(len(layers)), layers, fontsize=7)
    figure.colorbar(shown, format="%g")
    return figure
