"""Splits are disjoint, complete, stratified and fixed by their seed."""

import numpy as np
import pytest

from src.data.errors import DataError
from src.data.split import stratified_split

LABELS = np.repeat([0, 1, 2, 3], [200, 57, 10, 1])


def test_parts_are_disjoint_complete_and_of_the_right_size() -> None:
    kept, held_out = stratified_split(LABELS, 0.1, seed=0, name="val")
    assert sorted([*kept, *held_out]) == list(range(len(LABELS)))
    assert len(held_out) == round(0.1 * len(LABELS))


def test_every_class_keeps_its_share_and_a_single_sample_stays() -> None:
    _, held_out = stratified_split(LABELS, 0.1, seed=0, name="val")
    counts = np.bincount(LABELS[held_out], minlength=4)
    np.testing.assert_allclose(counts[:3], [20, 5.7, 1], atol=1)
    assert counts[3] == 0


def test_seed_fixes_the_split() -> None:
    first, again, other = (stratified_split(LABELS, 0.1, seed, "val")[1].tolist() for seed in (0, 0, 1))
    assert first == again != other


def test_nothing_to_hold_out() -> None:
    with pytest.raises(DataError) as error:
        stratified_split(np.array([0, 1, 2]), 0.15, seed=0, name="test")
    assert str(error.value) == (
        "0.15 of 3 samples in 3 classes leaves the test split empty: expected a class with at least two samples and "
        "a fraction that makes one whole sample. Give more samples per class, raise --data.test_fraction, or bring "
        "a test split."
    )
