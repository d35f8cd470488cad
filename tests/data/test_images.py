"""Batches of images: the covariate shift in evaluation."""

import torch

from src.data import DataError, Digits
from tests.helpers.errors import error_is


def test_covariate_shift_leaves_training_as_it_is() -> None:
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


def test_impossible_covariate_shift() -> None:
    message = "covariate_shift=2.0: expected a share of the brightness, -1 to 1. Set --data.covariate_shift."
    with error_is(DataError, message):
        Digits(covariate_shift=2.0)
