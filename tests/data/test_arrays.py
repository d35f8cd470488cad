"""Tables in units of their own, and digits that move."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from src.data import ArrayData, BreastCancer, DataError, Digits, MovingDigits, Wine
from src.data.sources.moving_digits import DIRECTIONS, move
from tests.errors import error_is


def set_up(data: ArrayData) -> ArrayData:
    data.setup("fit")
    return data


def inputs_of(data: ArrayData, split: str) -> torch.Tensor:
    return data.datasets[split].inputs  # type: ignore[attr-defined]


@pytest.mark.parametrize(("table", "num_samples"), [(BreastCancer, 569), (Wine, 178)])
def test_table_keeps_its_units_unless_scaled(table: type[BreastCancer | Wine], num_samples: int) -> None:
    plain, scaled = set_up(table(scaling="none")), set_up(table())
    assert sum(len(plain.datasets[split]) for split in ("train", "val", "test")) == num_samples
    spread = inputs_of(plain, "train").std(0, correction=0)
    assert spread.max() / spread.min() > 1e3
    # Fitted on the training split, and the same for the others.
    torch.testing.assert_close(inputs_of(scaled, "train").std(0, correction=0), torch.ones(len(spread)))
    mean = inputs_of(plain, "train").mean(0)
    torch.testing.assert_close(inputs_of(scaled, "test"), (inputs_of(plain, "test") - mean) / spread)
    assert (inputs_of(scaled, "test").mean(0).abs() > 1e-3).any()


def test_table_names_its_classes() -> None:
    from sklearn.datasets import load_breast_cancer, load_wine

    assert BreastCancer().class_names == list(load_breast_cancer().target_names)
    assert Wine().class_names == list(load_wine().target_names)


class TestMovingDigits:
    def test_backwards_is_the_opposite_direction(self) -> None:
        """So whatever does not depend on the order of the frames is the same for both."""
        images = np.random.default_rng(0).integers(1, 256, (4, 8, 8)).astype(np.uint8)
        steps = np.array(list(DIRECTIONS.values()))  # left, right, up, down
        starts = np.array([[3, 7], [3, 0], [8, 2], [1, 2]])
        clips = move(images, starts, steps, num_frames=8, frame_size=16)
        ends = starts + 7 * steps
        opposite = move(images, ends, -steps, num_frames=8, frame_size=16)
        np.testing.assert_array_equal(clips[:, ::-1], opposite)
        assert (clips.reshape(32, -1) > 0).sum(1).tolist() == [64] * 32  # no pixel leaves the frame
        np.testing.assert_array_equal(clips[0, 2, 3:11, 5:13], images[0])  # two steps to the left of column 7

    def test_order_is_needed_and_enough(self) -> None:
        """The frames' mean, whatever their order, does not tell left from right; first and last frame do."""
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
        # Two classes that cannot be told apart leave half of the clips.
        assert np.bincount(directions).min() > 250

    def test_clips_are_of_their_seed(self) -> None:
        one, again, other = (set_up(MovingDigits(clip_seed=seed)) for seed in (0, 0, 1))
        assert torch.equal(inputs_of(one, "train"), inputs_of(again, "train"))
        assert one.datasets["train"].labels.tolist() == again.datasets["train"].labels.tolist()
        assert not torch.equal(inputs_of(one, "test")[:100], inputs_of(other, "test")[:100])

    def test_labels_name_the_digit_and_its_direction(self) -> None:
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
    def test_impossible_numbers(self, changes: dict[str, Any], message: str) -> None:
        with error_is(DataError, message):
            MovingDigits(**changes)


class TestCovariateShift:
    def test_only_training_stays_as_it_was(self) -> None:
        from types import SimpleNamespace

        plain, shifted = Digits(scaling="none"), Digits(scaling="none", covariate_shift=0.2)
        batches = {}
        for data in (plain, shifted):
            data.setup("fit")
            data.crop_padding = 0
            for training in (True, False):
                data.trainer = SimpleNamespace(  # type: ignore[assignment]
                    training=training, precision_plugin=SimpleNamespace(convert_input=lambda images: images)
                )
                batch = data.datasets["val"][list(range(20))]
                batches[data, training] = data.on_after_batch_transfer(batch, 0)[0]
        assert torch.equal(batches[plain, True], batches[shifted, True])
        expected = (batches[plain, False] + 51).clamp(max=255)
        torch.testing.assert_close(batches[shifted, False], expected)
        assert not torch.equal(expected, batches[plain, False])

    def test_impossible_shift(self) -> None:
        message = "covariate_shift=2.0: expected a share of the brightness, -1 to 1. Set --data.covariate_shift."
        with error_is(DataError, message):
            Digits(covariate_shift=2.0)
