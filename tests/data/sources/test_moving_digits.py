"""Moving digits: clips, their labels and their seed."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from src.data import ArrayData, DataError, Digits, MovingDigits
from src.data.sources.moving_digits import DIRECTIONS, move
from tests.helpers.errors import error_is


def set_up(data: ArrayData) -> ArrayData:
    data.setup("fit")
    return data


def inputs_of(data: ArrayData, split: str) -> torch.Tensor:
    return data.datasets[split].inputs  # type: ignore[attr-defined]


def test_backwards_is_the_opposite_direction() -> None:
    """So a feature that does not depend on the order of the frames is equal for both directions."""
    images = np.random.default_rng(0).integers(1, 256, (4, 8, 8)).astype(np.uint8)
    steps = np.array(list(DIRECTIONS.values()))  # left, right, up, down
    starts = np.array([[3, 7], [3, 0], [8, 2], [1, 2]])
    clips = move(images, starts, steps, num_frames=8, frame_size=16)
    ends = starts + 7 * steps
    opposite = move(images, ends, -steps, num_frames=8, frame_size=16)
    np.testing.assert_array_equal(clips[:, ::-1], opposite)
    assert (clips.reshape(32, -1) > 0).sum(1).tolist() == [64] * 32  # no pixel leaves the frame
    np.testing.assert_array_equal(clips[0, 2, 3:11, 5:13], images[0])  # two steps to the left of column 7


def test_order_is_needed_and_enough() -> None:
    """The mean of the frames does not separate left from right; the first and last frames together do."""
    data = set_up(MovingDigits())
    clips, labels = inputs_of(data, "train")[:, 0], data.datasets["train"].labels
    directions = labels % len(DIRECTIONS)
    horizontal = directions < 2

    def accuracy(features: torch.Tensor) -> float:
        x, y = features[horizontal].flatten(1).numpy(), directions[horizontal]
        fitted = LogisticRegression(C=0.01, max_iter=500).fit(x[:400], y[:400])
        return fitted.score(x[400:], y[400:])

    assert accuracy(clips[:, -1] - clips[:, 0]) > 0.9
    assert accuracy(clips.mean(1)) < 0.6
    # The directions are about equally frequent, so chance is an accuracy of one half.
    assert np.bincount(directions).min() > 250


def test_clips_are_of_their_seed() -> None:
    one, again, other = (set_up(MovingDigits(clip_seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(inputs_of(one, "train"), inputs_of(again, "train"))
    assert one.datasets["train"].labels.tolist() == again.datasets["train"].labels.tolist()
    assert not torch.equal(inputs_of(one, "test")[:100], inputs_of(other, "test")[:100])


def test_labels_name_the_digit_and_its_direction() -> None:
    clips = MovingDigits(num_frames=3).load()["train"]
    digits = Digits().load()["train"]
    names = MovingDigits().class_names
    for clip, label, image, digit in zip(clips.inputs, clips.labels, digits.pixels, digits.labels, strict=True):
        name, direction = names[label].split()
        assert int(name) == digit
        down, right = DIRECTIONS[direction]
        moved = torch.roll(clip[0, 0], (down, right), (0, 1))
        assert torch.equal(clip[0, 1], moved)
        assert int(clip[0, 0].sum()) == image.sum()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_frames": 1}, "num_frames=1: expected 2 or more. Set --data.num_frames."),
        (
            {"num_frames": 10},
            "num_frames=10: expected at most 9, after which a digit would leave its frame. Set --data.num_frames.",
        ),
        ({"clip_seed": -1}, "clip_seed=-1: expected 0 or more. Set --data.clip_seed."),
    ],
)
def test_impossible_numbers(changes: dict[str, Any], message: str) -> None:
    with error_is(DataError, message):
        MovingDigits(**changes)
