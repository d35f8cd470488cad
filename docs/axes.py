"""Draws docs/pictures/axes.png: which values of a batch share a mean.

python docs/axes.py
"""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

SAMPLES, CHANNELS, PLACES = 4, 6, 4
SHARED, OTHER = "#0072B2", "#F2F2F2"

# Which sample, channel and place one mean is taken over; the rest repeats it.
NORMS = {
    "BatchNorm": np.s_[:, 0, :],
    "LayerNorm": np.s_[0, :, 0],
    "GroupNorm": np.s_[0, :3, :],
    "InstanceNorm": np.s_[0, 0, :],
}
TEXT = {**NORMS, "GroupNorm": np.s_[0, :3, 0]}
LENGTHS = (4, 3, 2, 4)  # tokens of each text; the rest of its places is padding


def draw() -> Figure:
    """Each norm as a block of samples, channels and places; blue is what shares one mean."""
    figure = Figure(figsize=(13, 8.4), layout="constrained")
    rows = [("images (N, C, H·W)", "H·W", NORMS, None), ("text (B, D, T)", "T", TEXT, LENGTHS)]
    for row, (kind, places, norms, lengths) in enumerate(rows):
        for column, (name, shared) in enumerate(norms.items()):
            axes = figure.add_subplot(2, len(NORMS), 1 + row * len(NORMS) + column, projection="3d")
            colors = np.full((SAMPLES, CHANNELS, PLACES), OTHER)
            colors[shared] = SHARED
            filled = np.ones(colors.shape, dtype=bool)
            if lengths:
                for sample, length in enumerate(lengths):
                    filled[sample, :, length:] = False
            # x: samples, y: places, z: channels from the top down, the shared ones in front.
            order = (0, 2, 1)
            axes.voxels(
                filled.transpose(order)[:, :, ::-1],
                facecolors=colors.transpose(order)[:, :, ::-1],
                edgecolors="#888888",
                linewidth=0.4,
                shade=False,
            )
            axes.set_xlabel("N" if row == 0 else "B")
            axes.set_ylabel(places)
            axes.set_zlabel("C" if row == 0 else "D")
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_zticks([])
            axes.view_init(elev=22, azim=-125)
            axes.set_box_aspect((SAMPLES, PLACES, CHANNELS), zoom=0.88)
            axes.set_title(f"{name}\n{kind}", fontsize="medium")
    return figure


if __name__ == "__main__":
    draw().savefig(Path(__file__).parent / "pictures/axes.png", dpi=100)
