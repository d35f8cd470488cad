"""Moving digits: small videos whose classes depend on the order of the frames."""

from typing import Any

import numpy as np

from src.data.arrays import ArrayData, ArrayDataset
from src.data.base import require_at_least
from src.data.errors import DataError
from src.data.sources.digits import read_digits

# Steps (down, right) from one frame to the next.
DIRECTIONS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}
DIGIT_SIZE = 8


def move(images: np.ndarray, starts: np.ndarray, steps: np.ndarray, num_frames: int, frame_size: int) -> np.ndarray:
    """Clips in which each image moves by its own step from one frame to the next: (N, T, S, S) uint8.

    Args:
        images: (N, h, w) uint8.
        starts: (N, 2) the top left corner in the first frame.
        steps: (N, 2) how far the corner moves.
        num_frames: T.
        frame_size: S, height and width.
    """
    num_samples, height, width = images.shape
    times = np.arange(num_frames)
    corners = starts[:, None] + times[:, None] * steps[:, None]  # (N, T, 2)
    rows = corners[..., 0, None] + np.arange(height)  # (N, T, h)
    columns = corners[..., 1, None] + np.arange(width)  # (N, T, w)
    clips = np.zeros((num_samples, num_frames, frame_size, frame_size), dtype=np.uint8)
    sample = np.arange(num_samples)[:, None, None, None]
    clips[sample, times[:, None, None], rows[..., :, None], columns[..., None, :]] = images[:, None]
    return clips


class MovingDigits(ArrayData):
    """Clips of scikit-learn's 1,797 digits; each moves in a frame of 16x16, one pixel a time step: (B, 1, T, 16, 16).

    A class is a digit and its direction: left, right, up or down, 40 classes in all. A clip played backwards is a clip
    of the opposite direction, just as likely as the clip itself. Without the order of the frames, two classes cannot be
    told apart, so that at most half of the clips can be classified. Each digit is in one clip.

    Args:
        num_frames: T, frames in a clip, 2 to 9: the digit does not leave the frame.
        clip_seed: fixes where each digit starts and in which direction it moves.
    """

    modality = "volumes"
    in_channels = 1
    frame_size = 16

    def __init__(self, num_frames: int = 8, clip_seed: int = 0, **options: Any):
        require_at_least(2, num_frames=num_frames)
        require_at_least(0, clip_seed=clip_seed)
        longest = self.frame_size - DIGIT_SIZE + 1
        if num_frames > longest:
            raise DataError(
                f"num_frames={num_frames}: expected at most {longest}, after which a digit would leave its frame. Set "
                "--data.num_frames."
            )
        super().__init__(
            class_names=[f"{digit} {direction}" for digit in range(10) for direction in DIRECTIONS],
            shape=(self.in_channels, num_frames, self.frame_size, self.frame_size),
            **options,
        )
        self.num_frames = num_frames
        self.clip_seed = clip_seed

    def load(self) -> dict[str, ArrayDataset]:
        """One clip of each digit, to be split."""
        images, digits = read_digits()  # (N, 8, 8), (N,)
        rng = np.random.default_rng(self.clip_seed)
        directions = rng.integers(len(DIRECTIONS), size=len(images))
        steps = np.array(list(DIRECTIONS.values()))[directions]  # (N, 2)
        # `travel` is how far a digit moves along each axis; it may start at each place from which it stays inside the
        # frame.
        travel = np.abs(steps) * (self.num_frames - 1)
        first = rng.integers(0, self.frame_size - DIGIT_SIZE - travel + 1)
        starts = np.where(steps < 0, first + travel, first)
        clips = move(images, starts, steps, self.num_frames, self.frame_size)
        return {"train": ArrayDataset(clips[:, None], digits * len(DIRECTIONS) + directions)}
