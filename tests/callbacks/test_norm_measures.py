"""A sample of a large tensor gives nearly its measures; dead channels and eval gaps equal values computed by hand."""

import pytest
import torch
from torch import Tensor, nn

from src.callbacks.norm_measures import MAX_VALUES, eval_gap, moments, stuck_share, subsample
from src.norms import BatchNorm1d


def bordered(shape: tuple[int, ...], dim: int) -> Tensor:
    """Noise with far larger values along a border, at the first position of dimension `dim`."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)) + 2
    x.select(dim, 0).add_(30)
    return x


# In the last shape, the step between sampled values equals the number of positions in a map.
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shape", [(8, 16, 96, 96), (64, 64, 32, 32), (1, 8, 512, 512), (512, 512, 7, 7)])
@pytest.mark.parametrize("dim", [2, 3])
def test_of_a_large_map_some_values_are_enough(shape: tuple[int, ...], dim: int, channels_last: bool) -> None:
    x = bordered(shape, dim)
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    seen = subsample(x, 1, None)
    assert MAX_VALUES / 2 < seen[0].numel() < 1.1 * MAX_VALUES < x.numel()
    means, variances = moments(*seen)
    all_means, all_variances = moments(x, 1, None)
    assert means.shape == all_means.shape
    assert means.mean().item() == pytest.approx(all_means.mean().item(), rel=0.02)
    assert variances.mean().item() == pytest.approx(all_variances.mean().item(), rel=0.05)


@pytest.mark.parametrize("shape", [(64, 128, 512), (256, 64, 1024), (2, 4096, 256)])
def test_of_long_texts_some_tokens_are_enough(shape: tuple[int, ...]) -> None:
    """The sample includes tokens after the first of each text, and the matching positions of the mask."""
    mask = torch.arange(shape[1]) < torch.linspace(2, shape[1], shape[0])[:, None]
    x = bordered(shape, 1).masked_fill(~mask[:, :, None], 1e6)
    seen = subsample(x, -1, mask)
    assert MAX_VALUES / 2 < seen[0].numel() < 1.1 * MAX_VALUES < x.numel()
    means, _ = moments(*seen)
    all_means, _ = moments(x, -1, mask)
    assert means.mean().item() == pytest.approx(all_means.mean().item(), rel=0.15)


def test_of_a_large_batch_some_vectors_are_enough_and_computed_in_float32() -> None:
    x = torch.randn(2**15, 16).half() + 1000
    seen = subsample(x, 1, None)
    assert seen[0].numel() == MAX_VALUES
    torch.testing.assert_close(moments(*seen)[1], x.float().var(0), rtol=0.1, atol=0)


def test_an_activation_that_is_alive_away_from_the_border_is_not_stuck() -> None:
    x = bordered((64, 64, 32, 32), 2) + 2
    x[:, :, 0] = -1
    assert stuck_share(nn.ReLU(), *subsample(x, 1, None)) == 0


@pytest.mark.parametrize(
    ("activation", "values", "stuck"),
    [
        (nn.ReLU(inplace=True), [[-1.0, -1, 1], [-2, 3, 1]], 1 / 3),
        (nn.GELU(), [[-9.0, -1, 9], [-8, 3, 9]], 1 / 3),
        (nn.Tanh(), [[-9.0, 0, 9], [-8, 3, 9]], 2 / 3),
        (nn.Sigmoid(), [[-9.0, 0, 9], [8, 9, -9]], 2 / 3),
        (nn.ReLU(), [[1e6, 1e6, -1e6], [1e6, -1e6, -1e6]], 1 / 3),
        (nn.LeakyReLU(0.1), [[-1.0, -1, 1], [-2, 3, 1]], 0),
    ],
)
def test_dead_and_saturated_channels(activation: nn.Module, values: list[list[float]], stuck: float) -> None:
    x = torch.tensor(values)
    assert stuck_share(activation, x, -1, None).item() == pytest.approx(stuck)
    assert torch.equal(x, torch.tensor(values))


def test_the_eval_gap_of_a_constant_channel_is_its_shift() -> None:
    """The gap is 0 where the channel's mean equals the running mean."""
    layer = BatchNorm1d(2)
    assert eval_gap(layer, torch.zeros(2), torch.zeros(2)).item() == 0
    assert eval_gap(layer, torch.ones(2), torch.zeros(2)).item() == pytest.approx(1, rel=1e-3)
