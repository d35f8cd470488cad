"""Standardization, min-max scaling and no scaling, with statistics of the given rows."""

import numpy as np
import pytest
import torch

from src.data.scaling import CHUNK, ScalingName, fit_scaling, fit_to_values, value_counts

PIXELS = np.random.default_rng(0).integers(5, 250, (40, 3, 6, 6)).astype(np.uint8)
PIXELS[:, 1] //= 2
ALL = np.arange(len(PIXELS))


def test_standardize_gives_mean_0_and_std_1_per_channel() -> None:
    scaled = fit_scaling("standardize", value_counts(PIXELS, ALL))(torch.from_numpy(PIXELS))
    assert scaled.dtype == torch.float32
    torch.testing.assert_close(scaled.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(scaled.std((0, 2, 3), correction=0), torch.ones(3))


def test_minmax_gives_0_to_1() -> None:
    scaled = fit_scaling("minmax", value_counts(PIXELS, ALL))(torch.from_numpy(PIXELS))
    assert (scaled.min(), scaled.max()) == (0, 1)
    assert scaled[:, 1].max() < 0.6


def test_none_gives_the_bytes_as_float() -> None:
    scaled = fit_scaling("none", value_counts(PIXELS, ALL))(torch.from_numpy(PIXELS))
    assert torch.equal(scaled, torch.from_numpy(PIXELS).float())


@pytest.mark.parametrize("name", ["standardize", "minmax"])
def test_constant_images_stay_finite(name: ScalingName) -> None:
    pixels = np.full((2, 1, 4, 4), 9, dtype=np.uint8)
    scaled = fit_scaling(name, value_counts(pixels, np.arange(2)))(torch.from_numpy(pixels))
    assert torch.equal(scaled, torch.zeros(2, 1, 4, 4))


def test_counts_are_of_the_given_rows_in_any_number_of_chunks() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (CHUNK + 7, 2, 2, 1)).astype(np.uint8)
    rows = np.arange(0, len(pixels), 2)
    counts = value_counts(pixels, rows)
    for channel in range(2):
        expected = np.bincount(pixels[::2, channel].ravel(), minlength=256)
        np.testing.assert_array_equal(counts[channel], expected)


def test_bytes_and_values_are_standardized_alike() -> None:
    by_counts = fit_scaling("standardize", value_counts(PIXELS, ALL))
    by_values = fit_to_values("standardize", torch.from_numpy(PIXELS))
    torch.testing.assert_close(by_values.shift, by_counts.shift)
    torch.testing.assert_close(by_values.scale, by_counts.scale)


@pytest.mark.parametrize("shape", [(40, 3), (40, 3, 4, 2, 2)])
def test_values_in_units_of_their_own(shape: tuple[int, ...]) -> None:
    units = torch.tensor([1e-3, 1.0, 4e3]).reshape(3, *[1] * (len(shape) - 2))
    values = torch.randn(shape) * units + 5 * units
    per_feature = [dim for dim in range(len(shape)) if dim != 1]
    standardized = fit_to_values("standardize", values)(values)
    torch.testing.assert_close(standardized.mean(per_feature), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(standardized.std(per_feature, correction=0), torch.ones(3))
    minmax = fit_to_values("minmax", values)(values)
    torch.testing.assert_close(minmax.amin(per_feature), torch.zeros(3))
    torch.testing.assert_close(minmax.amax(per_feature), torch.ones(3))
    assert torch.equal(fit_to_values("none", values)(values), values)


@pytest.mark.parametrize("name", ["standardize", "minmax"])
def test_a_constant_feature_stays_finite(name: ScalingName) -> None:
    values = torch.full((4, 2), 7.0)
    assert torch.equal(fit_to_values(name, values)(values), torch.zeros(4, 2))
