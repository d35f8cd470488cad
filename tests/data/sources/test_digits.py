"""Digits: reading them from scikit-learn."""

import numpy as np
from sklearn.datasets import load_digits

from src.data import Digits


def test_digits_are_stretched_to_bytes() -> None:
    data = Digits()
    data.setup("fit")
    pixels = data.load()["train"].pixels[:, 0]
    np.testing.assert_allclose(pixels, load_digits().images * 255 / 16, atol=0.5)
    assert (pixels.min(), pixels.max()) == (0, 255)
    assert [len(data.datasets[split]) for split in ("train", "val", "test")] == [1258, 269, 270]
