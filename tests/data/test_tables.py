"""Tables: their units, their scaling, and the names of their classes."""

import pytest
import torch

from src.data import ArrayData, BreastCancer, Wine


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
    # The scaling is computed from the training split, and applied to all splits.
    torch.testing.assert_close(inputs_of(scaled, "train").std(0, correction=0), torch.ones(len(spread)))
    mean = inputs_of(plain, "train").mean(0)
    torch.testing.assert_close(inputs_of(scaled, "test"), (inputs_of(plain, "test") - mean) / spread)
    assert (inputs_of(scaled, "test").mean(0).abs() > 1e-3).any()


def test_table_names_its_classes() -> None:
    from sklearn.datasets import load_breast_cancer, load_wine

    assert BreastCancer().class_names == list(load_breast_cancer().target_names)
    assert Wine().class_names == list(load_wine().target_names)
