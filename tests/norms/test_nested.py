"""Nested tensors: our layers beside torch's, where torch's take them, and the errors elsewhere."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from src.norms import NORMS, BatchNorm1d, GroupNorm, InstanceNorm1d, LayerNorm, RMSNorm
from tests.helpers.errors import error_is

pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage")

D = 16
LENGTHS = (3, 5, 2)
PAIRS = [(LayerNorm, nn.LayerNorm), (RMSNorm, nn.RMSNorm)]
Make = Callable[[torch.dtype], Tensor]


def samples(dtype: torch.dtype, *inner: int) -> list[Tensor]:
    random = torch.Generator().manual_seed(0)
    return [(torch.randn(n, *inner, D, generator=random) * 2 + 1).to(dtype) for n in LENGTHS]


def jagged(dtype: torch.dtype = torch.float32, *inner: int) -> Tensor:
    return torch.nested.nested_tensor(samples(dtype, *inner), layout=torch.jagged)


def jagged_with_heads(dtype: torch.dtype = torch.float32) -> Tensor:
    return jagged(dtype, 4)


def strided(dtype: torch.dtype = torch.float32, *inner: int) -> Tensor:
    return torch.nested.nested_tensor(samples(dtype, *inner))


def strided_with_heads(dtype: torch.dtype = torch.float32) -> Tensor:
    return strided(dtype, 4)


def with_holes(dtype: torch.dtype = torch.float32) -> Tensor:
    dense = torch.nested.to_padded_tensor(jagged(dtype), 7.0, (3, 6, D))
    return torch.nested.narrow(dense, 1, torch.tensor([0, 1, 2]), torch.tensor([3, 5, 2]), layout=torch.jagged)


def ragged_behind_heads(dtype: torch.dtype = torch.float32) -> Tensor:
    return jagged_with_heads(dtype).transpose(1, 2)  # (B, 4, ragged, D)


def transposed(dtype: torch.dtype = torch.float32) -> Tensor:
    return jagged(dtype).transpose(1, 2)  # (B, D, ragged)


def empty(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.nested.nested_tensor([], dtype=dtype)


def flat(x: Tensor) -> Tensor:
    return torch.cat([sample.flatten() for sample in x.unbind()])


def randomized(layer: nn.Module) -> nn.Module:
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=random))
    return layer


def step(layer: nn.Module, x: Tensor) -> dict[str, Any]:
    """The layout, the type and the numbers of a residual block and its gradients."""
    x = x.detach().requires_grad_()
    y = layer(x)
    z = flat(x + y)
    (z * torch.linspace(-1, 2, z.numel()).sin()).sum().backward()
    assert x.grad is not None
    gradients = {name: p.grad for name, p in layer.named_parameters()}
    return {"layout": (y.layout, x.grad.layout), "dtype": y.dtype, "sum": z.detach(), "x": flat(x.grad), **gradients}


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    tolerance = 2e-2 if expected["dtype"] == torch.bfloat16 else 1e-5  # some units of the last place, at values near 1
    for name, value in expected.items():
        if isinstance(value, Tensor):
            assert_close(found[name], value, rtol=tolerance, atol=tolerance, msg=lambda m, name=name: f"{name}: {m}")
        else:
            assert found[name] == value, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("options", [{}, {"elementwise_affine": False}, {"bias": False}], ids=str)
@pytest.mark.parametrize("make", [jagged, jagged_with_heads, strided, strided_with_heads])
@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_step_is_torchs(ours: Any, theirs: Any, make: Make, options: dict[str, bool], dtype: torch.dtype) -> None:
    if theirs is nn.RMSNorm and "bias" in options:
        return
    reference = randomized(theirs(D, **options)).to(dtype)
    layer = ours(D, **options).to(dtype)
    layer.load_state_dict(reference.state_dict())
    x = make(dtype)
    if x.layout == torch.strided and (theirs is nn.RMSNorm or options):  # torch's layers refuse these
        expected = step(reference, torch.nested.nested_tensor(list(x.unbind()), layout=torch.jagged))
        expected["layout"] = (torch.strided, torch.strided)
    else:
        expected = step(reference, x)
    assert_same(step(layer, x), expected)


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
@pytest.mark.parametrize("make", [jagged_with_heads, strided_with_heads])
def test_several_dimensions(ours: Any, theirs: Any, make: Make) -> None:
    layer, reference = randomized(ours((4, D))), randomized(theirs((4, D)))
    if theirs is nn.RMSNorm and make is strided_with_heads:  # refused by torch's layer
        assert_close(flat(layer(make(torch.float32))), flat(reference(jagged_with_heads())))
        return
    assert_same(step(layer, make(torch.float32)), step(reference, make(torch.float32)))


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_the_sum_with_the_input_and_the_found_lengths_are_kept(ours: Any, theirs: Any) -> None:
    for x in (jagged(), with_holes(), ragged_behind_heads()):
        y, reference = ours(D)(x), theirs(D)(x)
        assert y.offsets() is x.offsets()
        assert y.lengths() is x.lengths()
        assert (x + y).shape == y.shape == reference.shape
        assert_close(flat(y), flat(reference))
        assert (y._maybe_min_seqlen, y._maybe_max_seqlen) == (x._maybe_min_seqlen, x._maybe_max_seqlen)  # type: ignore[attr-defined]


@pytest.mark.parametrize("ours", [LayerNorm, RMSNorm])
@pytest.mark.parametrize("make", [with_holes, ragged_behind_heads])
def test_gradients_that_torchs_layer_norm_refuses(ours: Any, make: Make) -> None:
    """Gradients are those of the samples, one by one: what lies in holes counts for none."""
    x, layer = make(torch.float32), randomized(ours(D))
    one_by_one = copy.deepcopy(layer)
    found = step(layer, x)
    leaves = [sample.detach().requires_grad_() for sample in x.unbind()]
    z = torch.cat([(leaf + one_by_one(leaf)).flatten() for leaf in leaves])
    (z * torch.linspace(-1, 2, z.numel()).sin()).sum().backward()
    assert_close(found["sum"], z.detach())
    assert_close(found["x"], torch.cat([leaf.grad.flatten() for leaf in leaves if leaf.grad is not None]))
    for name, parameter in one_by_one.named_parameters():
        assert_close(found[name], parameter.grad)


@pytest.mark.parametrize("ours", [LayerNorm, RMSNorm])
def test_compiles_jagged(ours: Any) -> None:
    torch._dynamo.reset()
    layer = randomized(ours(D))
    compiled = copy.deepcopy(layer)
    compiled.compile(backend="aot_eager", fullgraph=True)
    assert_same(step(compiled, jagged()), step(layer, jagged()))


def test_a_sample_without_positions() -> None:
    for layout in (torch.jagged, torch.strided):
        x = torch.nested.nested_tensor([torch.zeros(0, D), torch.ones(2, D)], layout=layout)
        assert [tuple(sample.shape) for sample in LayerNorm(D)(x).unbind()] == [(0, D), (2, D)]


def test_batch_norm_counts_every_position_and_no_padding() -> None:
    layer, dense = NORMS["BatchNorm"](D, channel_dim=-1), nn.BatchNorm1d(D)
    assert_close(torch.cat(layer(jagged()).unbind()), dense(torch.cat(samples(torch.float32))))
    assert_close(dict(layer.named_buffers()), dict(dense.named_buffers()))


def test_holes_do_not_count_for_a_batch_norm() -> None:
    layer, x = NORMS["BatchNorm"](D, channel_dim=-1), with_holes()
    with error_is(
        ValueError,
        "TokenBatchNorm got a nested tensor with holes, such as torch.nested.narrow makes, and expected one without: "
        "its statistics would count what lies in the holes. This copy has none: "
        "torch.nested.as_nested_tensor(list(x.unbind()), layout=torch.jagged)",
    ):
        layer(x)
    filled = torch.nested.as_nested_tensor(list(x.unbind()), layout=torch.jagged)
    assert_close(torch.cat(layer(filled).unbind()), nn.BatchNorm1d(D)(torch.cat(x.unbind())))


REFUSED = {
    "BatchNorm1d": BatchNorm1d(D),
    "InstanceNorm1d": InstanceNorm1d(D),
    "GroupNorm": GroupNorm(4, D),
    "ChannelLayerNorm": NORMS["LayerNorm"](D),
    "ChannelRMSNorm": NORMS["RMSNorm"](D),
    "TokenInstanceNorm": NORMS["InstanceNorm"](D, channel_dim=-1),
    "Derf": NORMS["Derf"](D),
}


@pytest.mark.parametrize("name", REFUSED)
def test_layers_that_take_none(name: str) -> None:
    for x, shape in (
        (jagged(), "[3, ragged, 16]"),
        (strided(), "[3, ragged, 16]"),
        (transposed(), "[3, 16, ragged]"),
        (empty(), "[0]"),
    ):
        with error_is(
            ValueError,
            f"{name} got a nested tensor of shape {shape}, and expected a tensor that is not nested. Nested tensors "
            "fit LayerNorm, RMSNorm, and NORMS[name](num_features, channel_dim=-1) with the names BatchNorm, "
            "GroupNorm, DynamicTanh and Derf.",
        ):
            REFUSED[name](x)


@pytest.mark.parametrize(
    ("layer", "make", "shape", "features"),
    [
        (LayerNorm(8), jagged, "[3, ragged, 16]", "[8]"),
        (LayerNorm(8), strided, "[3, ragged, 16]", "[8]"),
        (LayerNorm(D), transposed, "[3, 16, ragged]", "[16]"),
        (LayerNorm(sum(LENGTHS)), transposed, "[3, 16, ragged]", "[10]"),  # torch's normalizes this
        (LayerNorm((sum(LENGTHS), D)), jagged, "[3, ragged, 16]", "[10, 16]"),  # and this, over all samples
        (LayerNorm((5, D)), strided, "[3, ragged, 16]", "[5, 16]"),
        (RMSNorm((4, D)), ragged_behind_heads, "[3, 4, ragged, 16]", "[4, 16]"),
        (RMSNorm((4, 4, D)), strided_with_heads, "[3, ragged, 4, 16]", "[4, 4, 16]"),
        (RMSNorm(D), empty, "[0]", "[16]"),
        (NORMS["GroupNorm"](64, channel_dim=-1), jagged, "[3, ragged, 16]", "[64]"),
        (NORMS["BatchNorm"](8, channel_dim=-1), jagged, "[3, ragged, 16]", "[8]"),
    ],
)
def test_other_features_or_a_ragged_one(layer: nn.Module, make: Make, shape: str, features: str) -> None:
    with error_is(
        RuntimeError,
        f"{type(layer).__name__} got a nested tensor of shape {shape}, and expected one that ends in {features}. "
        "x.transpose moves a ragged dimension forward.",
    ):
        layer(make(torch.float32))
