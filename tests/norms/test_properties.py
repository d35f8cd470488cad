"""Properties of each norm on any input, such as the samples and positions on which an output depends."""

import pytest
import torch
from torch import nn

from src.norms import NORMS, families
from src.norms.elementwise import Elementwise

MAPS = (4, 8, 5, 3)
TOKENS = (4, 6, 8)
SIZES = pytest.mark.parametrize(("shape", "channel_dim"), [(MAPS, 1), (TOKENS, -1)], ids=["maps", "tokens"])
EVERY = pytest.mark.parametrize("name", NORMS)


def build(name: str, channel_dim: int) -> nn.Module:
    groups = {"GroupNorm": families.GroupNorm(2), "TorchGroupNorm": families.TorchGroupNorm(2)}
    family = groups.get(name, NORMS[name])
    return family(8, channel_dim).double()


@EVERY
@SIZES
def test_shape_and_gradient(name: str, shape: tuple[int, ...], channel_dim: int) -> None:
    layer = build(name, channel_dim)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    y = layer(x)
    assert y.shape == x.shape
    y.square().sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


@EVERY
@SIZES
def test_who_sees_other_samples(name: str, shape: tuple[int, ...], channel_dim: int) -> None:
    """In training, only BatchNorm's output for a sample depends on other samples. In eval, no norm's output does."""
    layer = build(name, channel_dim)
    x = torch.randn(shape, dtype=torch.float64)
    others = torch.cat([x[:1], 5 * x[1:]])
    same = torch.allclose(layer(x)[0], layer(others)[0])
    assert same == ("BatchNorm" not in name)
    layer.eval()
    assert torch.allclose(layer(x)[0], layer(others)[0])


@EVERY
def test_who_sees_other_positions(name: str) -> None:
    """On tokens, only the outputs of BatchNorm and InstanceNorm depend on other positions."""
    layer = build(name, -1)
    x = torch.randn(TOKENS, dtype=torch.float64)
    changed = x.clone()
    changed[:, 1:] *= 5
    same = torch.allclose(layer(x)[:, 0], layer(changed)[:, 0])
    assert same == (not name.endswith(("BatchNorm", "InstanceNorm")))


@EVERY
@SIZES
def test_scale_and_shift_of_the_input(name: str, shape: tuple[int, ...], channel_dim: int) -> None:
    """A norm with statistics removes a scale and a shift (RMSNorm: only a scale); other norms remove neither."""
    layer = build(name, channel_dim)
    x = 100 * torch.randn(shape, dtype=torch.float64)
    y = layer(x)
    takes_statistics = not isinstance(layer, Elementwise | nn.Identity)
    assert torch.allclose(layer(7 * x), y, atol=1e-5) == takes_statistics
    assert torch.allclose(layer(x + 50), y, atol=1e-5) == (takes_statistics and "RMSNorm" not in name)


@pytest.mark.parametrize("name", ["BatchNorm", "LayerNorm", "RMSNorm", "GroupNorm", "InstanceNorm"])
@SIZES
def test_ours_equal_torchs_in_both_layouts(name: str, shape: tuple[int, ...], channel_dim: int) -> None:
    ours, theirs = build(name, channel_dim), build(f"Torch{name}", channel_dim)
    torch.manual_seed(0)
    for training in (True, True, False):
        ours.train(training), theirs.train(training)
        x = torch.randn(shape, dtype=torch.float64) * 2 + 1
        torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


FORMULAS = {
    "DynamicTanh": lambda layer, x: torch.tanh(layer.alpha * x),
    "Derf": lambda layer, x: torch.special.erf(layer.alpha * x + layer.shift),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_an_elementwise_function_is_its_formula(name: str) -> None:
    layer = NORMS[name](8, channel_dim=1)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(0.5, 2)
    x = torch.randn(MAPS)
    weight, bias = layer.weight.reshape(8, 1, 1), layer.bias.reshape(8, 1, 1)
    torch.testing.assert_close(layer(x), FORMULAS[name](layer, x) * weight + bias)


def test_identity_changes_nothing() -> None:
    x = torch.randn(MAPS)
    assert NORMS["Identity"](8)(x) is x


def test_layer_norm_on_maps_is_convnexts() -> None:
    from torchvision.models.convnext import LayerNorm2d

    x = torch.randn(MAPS)
    torch.testing.assert_close(NORMS["LayerNorm"](8, channel_dim=1)(x), LayerNorm2d(8)(x))
