"""Which layers `swap_norms` takes for norms, what it takes their formula to be, and what it leaves alone."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.nn.utils.parametrize import register_parametrization
from torchvision.ops import FrozenBatchNorm2d
from transformers.models.mobilebert.modeling_mobilebert import NoNorm
from transformers.models.olmo.modeling_olmo import OlmoLayerNorm
from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextRMSNormGated
from transformers.models.squeezebert.modeling_squeezebert import SqueezeBertLayerNorm
from transformers.models.vitdet.modeling_vitdet import VitDetLayerNorm

from src.norms import NORMS, GroupNorm, LayerNorm, swap_norms
from src.norms.recognize import named_norms
from tests.helpers.errors import error_is


class FastLayerNorm(nn.LayerNorm):
    """As in timm: a `forward` of its own that computes what torch's does."""

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)


class LayerNorm2d(nn.LayerNorm):
    """As in torchvision and timm: over the channels of `(N, C, H, W)`."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class GroupNorm1(nn.GroupNorm):
    def __init__(self, num_channels: int) -> None:
        super().__init__(1, num_channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


class BatchNormAct2d(nn.BatchNorm2d):
    """As in timm: a batch norm with further layers."""

    def __init__(self, num_features: int, act: nn.Module) -> None:
        super().__init__(num_features)
        self.drop, self.act = nn.Identity(), act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))


class RmsNorm(nn.Module):
    """As in timm: not a subclass of torch's."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.eps, self.weight = 1e-6, nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class SquaringNorm(RmsNorm):
    """Equal to RmsNorm while the weight is 1."""

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight**2, self.eps)


class OtherEpsNorm(RmsNorm):
    """RmsNorm with an eps other than the one that it names."""

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, 1e-5)


class OneMore(nn.LayerNorm):
    """A formula of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.normalized_shape, self.weight + 1, self.bias, self.eps)


class OnlyInTraining(nn.BatchNorm2d):
    """In eval it computes what torch's layer does."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(2 * x if self.training else x)


class EitherLayout(nn.LayerNorm):
    """Its layout follows from the input's number of dimensions, and so cannot be told from the layer."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1) if x.ndim == 4 else super().forward(x)


MAPS, TOKENS = torch.randn(2, 8, 5, 3), torch.randn(2, 5, 3, 8)


@pytest.mark.parametrize(
    ("layer", "name", "x", "becomes"),
    [
        (FastLayerNorm(8), "LayerNorm", TOKENS, "LayerNorm"),
        (LayerNorm2d(8), "LayerNorm", MAPS, "ChannelLayerNorm"),
        (SqueezeBertLayerNorm(8), "LayerNorm", MAPS[..., 0], "ChannelLayerNorm"),
        (VitDetLayerNorm(8), "LayerNorm", MAPS, "ChannelLayerNorm"),
        (OlmoLayerNorm(8), "LayerNorm", TOKENS, "LayerNorm"),
        (RmsNorm(8), "RMSNorm", TOKENS, "RMSNorm"),
        (GroupNorm1(8), "GroupNorm", MAPS, "GroupNorm"),
        (BatchNormAct2d(8, nn.Identity()), "BatchNorm", MAPS, "BatchNorm2d"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_the_same_numbers_are_taken_over(
    layer: nn.Module, name: str, x: Tensor, becomes: str, training: bool, device: str
) -> None:
    """A `forward` of its own that computes a known formula is replaced by that kind, and everything is kept."""
    torch.manual_seed(0)
    model = nn.Sequential(copy.deepcopy(layer)).train(training).to(device)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    before = copy.deepcopy(model)
    random, state = torch.get_rng_state(), list(model.state_dict())
    replaced = swap_norms(model, NORMS[name])
    assert torch.equal(torch.get_rng_state(), random)
    assert type(model[0]).__name__ == becomes
    assert model[0].training == training
    assert list(model.state_dict()) == state == replaced.kept
    if device == "cpu":
        assert all(torch.equal(replaced["0"].state_dict()[k], v) for k, v in before[0].state_dict().items())
        torch.testing.assert_close(model(x), before(x))
        torch.testing.assert_close(dict(model.state_dict()), dict(before.state_dict()))


@pytest.mark.parametrize(
    ("layer", "kind"), [(OneMore(8), "LayerNorm"), (OnlyInTraining(8), "BatchNorm"), (EitherLayout(8), "LayerNorm")]
)
def test_a_formula_of_its_own(layer: nn.Module, kind: str) -> None:
    """A norm of the same kind would lose the formula and is refused. Another kind replaces it, with fresh weights."""
    model = nn.Sequential(layer).eval()
    nn.init.constant_(layer.weight, 3.0)
    with error_is(
        ValueError,
        f"layer '0' ({type(layer).__name__}) is a {kind} that has a formula of its own, which a swap would lose; "
        "replace it by a plain norm first",
    ):
        swap_norms(model, NORMS[kind])
    assert list(model) == [layer]
    swap_norms(model, NORMS["RMSNorm"])
    assert (model[0].weight == 1).all()


@pytest.mark.parametrize("layer", [SquaringNorm(8), OtherEpsNorm(8), NoNorm(8)], ids=lambda layer: type(layer).__name__)
def test_a_librarys_other_formula_starts_afresh(layer: nn.Module) -> None:
    """Fresh weights and inputs of usual size would not show the difference."""
    model = nn.Sequential(layer)
    nn.init.constant_(layer.weight, 3.0)
    replaced = swap_norms(model, NORMS["RMSNorm"])
    assert (model[0].weight == 1).all()
    assert (replaced.kept, replaced.afresh) == ([], ["0.weight"])


def test_a_forward_of_the_layer_itself() -> None:
    """A library may set `forward` on one layer. A copy of that layer would still call it."""
    model = nn.Sequential(nn.LayerNorm(8))
    model[0].forward = lambda x: x  # type: ignore[method-assign]
    with error_is(
        ValueError,
        "layer '0' (LayerNorm) is a LayerNorm that has a formula of its own, which a swap would lose; replace it by a "
        "plain norm first",
    ):
        swap_norms(model, NORMS["LayerNorm"])
    swap_norms(model, NORMS["RMSNorm"])
    assert not torch.equal(model(TOKENS), TOKENS)


@pytest.mark.parametrize("name", ["BatchNorm", "LayerNorm"])
def test_layers_inside_a_norm_are_not_lost(name: str) -> None:
    model = nn.Sequential(BatchNormAct2d(8, nn.ReLU()))
    with error_is(
        ValueError,
        "layer '0' (BatchNormAct2d) is a BatchNorm that has layers of its own (act), which a swap would lose; replace "
        "it by a plain norm and these layers first",
    ):
        swap_norms(model, NORMS[name])


class TakesMask(nn.GroupNorm):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return super().forward(x * mask)


class NormOfHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 8))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class LearnedNorm(RmsNorm):
    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.tau = nn.Parameter(torch.zeros(size))


class NormWithActivation(RmsNorm):
    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.act = nn.ReLU()


class GlobalResponseNorm(RmsNorm):
    pass


SIZE_NOT_KNOWN = "its number of features is not known: it has no weight and no normalized_shape of one dimension"
LEFT_ALONE = {
    Qwen3NextRMSNormGated(8): "it takes further inputs (gate), which other norms do not take",
    TakesMask(2, 8): "it takes further inputs (mask), which other norms do not take",
    FrozenBatchNorm2d(8): "its weight is frozen in a buffer",
    nn.LocalResponseNorm(2): "it compares channels or positions, and does not normalize by a mean and a variance",
    GlobalResponseNorm(8): "it compares channels or positions, and does not normalize by a mean and a variance",
    NormOfHeads(): SIZE_NOT_KNOWN,
    RmsNorm(1): SIZE_NOT_KNOWN,
    LearnedNorm(8): "it has parameters beside weight and bias (tau), which a swap would lose",
    NormWithActivation(8): "it has layers of its own (act), which a swap would lose",
}


@pytest.mark.parametrize("layer", LEFT_ALONE, ids=lambda layer: type(layer).__name__)
def test_left_alone_and_named(layer: nn.Module) -> None:
    model = nn.Sequential(nn.LayerNorm(8), layer, layer)
    reason = LEFT_ALONE[layer]
    with pytest.warns(UserWarning, match="leaves norms alone") as caught:
        replaced = swap_norms(model, NORMS["RMSNorm"])
    assert [str(each.message) for each in caught] == [f"RMSNorm leaves norms alone: '1', '2': {reason}"]
    assert (list(replaced), replaced.left_alone) == (["0"], {"1": reason, "2": reason})
    assert model[1] is model[2] is layer


def test_one_warning_for_all() -> None:
    model = nn.Sequential(*[FrozenBatchNorm2d(8) for _ in range(5)], nn.LocalResponseNorm(2))
    with pytest.warns(UserWarning, match="leaves norms alone") as caught:
        assert not swap_norms(model, NORMS["BatchNorm"])
    assert [str(each.message) for each in caught] == [
        "BatchNorm leaves norms alone: '0', '1', '2' and 2 more: its weight is frozen in a buffer; '5': it compares "
        "channels or positions, and does not normalize by a mean and a variance"
    ]


class NormedEmbedding(nn.Embedding):
    pass


class NormalCell(nn.Module):
    pass


class ConvNormAct(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8)


def test_what_is_no_norm() -> None:
    """Neither a block that contains a norm, nor another layer that also normalizes, nor a norm of a weight."""
    model = nn.Sequential(NormedEmbedding(3, 8), NormalCell(), ConvNormAct())
    nn.utils.parametrizations.weight_norm(model[2].conv)
    register_parametrization(model[2].conv, "bias", RmsNorm(8))
    assert [name for name, _ in named_norms(model)] == ["2.bn"]


class Positive(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight.abs() + 0.1


def parametrized(layer: nn.Module) -> None:
    register_parametrization(layer, "weight", Positive())


def pruned(layer: nn.Module) -> None:
    prune.random_unstructured(layer, "bias", amount=0.5)


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm`")
@pytest.mark.parametrize("name", ["BatchNorm", "LayerNorm"])
@pytest.mark.parametrize(
    ("compute", "cls", "tensor", "way_out"),
    [
        (parametrized, "ParametrizedBatchNorm2d", "weight", "parametrize.remove_parametrizations"),
        (
            nn.utils.parametrizations.weight_norm,
            "ParametrizedBatchNorm2d",
            "weight",
            "parametrize.remove_parametrizations",
        ),
        (pruned, "BatchNorm2d", "bias", "prune.remove"),
        (nn.utils.weight_norm, "BatchNorm2d", "weight", "remove_weight_norm"),
        (nn.utils.spectral_norm, "BatchNorm2d", "weight", "remove_spectral_norm"),
    ],
    ids=["parametrized", "weight_norm", "pruned", "old_weight_norm", "spectral_norm"],
)
def test_computed_parameters_are_refused(compute: Any, cls: str, tensor: str, way_out: str, name: str) -> None:
    """The message has the way out, and the way out works."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.GroupNorm(2, 8), nn.BatchNorm2d(8))
    compute(model[1])
    layers, state = list(model), copy.deepcopy(dict(model.state_dict()))
    with error_is(
        ValueError,
        f"layer '1' ({cls}) computes its {tensor} from other tensors, which a swap would lose; call "
        f"torch.nn.utils.{way_out}(layer, '{tensor}') with this layer first",
    ):
        swap_norms(model, NORMS[name])
    assert list(model) == layers
    torch.testing.assert_close(dict(model.state_dict()), state, rtol=0, atol=0)
    eval(f"torch.nn.utils.{way_out}")(model[1], tensor)
    model.eval()
    expected = model[1](MAPS)
    swap_norms(model, NORMS[name])
    if name == "BatchNorm":
        torch.testing.assert_close(model[1](MAPS), expected)


def test_a_layer_that_cannot_be_copied_is_named() -> None:
    model = nn.Sequential(nn.GroupNorm(2, 8), nn.BatchNorm2d(8))
    model[1].cache = torch.ones(1, requires_grad=True) * 2
    layers = list(model)
    with pytest.raises(
        ValueError, match=r"layer '1' \(BatchNorm2d\) cannot be copied: Only Tensors created explicitly"
    ):
        swap_norms(model, NORMS["BatchNorm"])
    assert list(model) == layers
    assert isinstance(layers[0], nn.GroupNorm)
    assert not isinstance(layers[0], GroupNorm | LayerNorm)
