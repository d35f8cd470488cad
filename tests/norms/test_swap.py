"""`swap_norms` replaces the norms of a model, and keeps the rest of the model."""

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models import convnext_tiny, resnet18
from transformers import GemmaConfig, GemmaForSequenceClassification, LlamaConfig, LlamaForSequenceClassification
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from src.norms import NORMS, BatchNorm2d, LayerNorm, RMSNorm, SyncBatchNorm, swap_norms
from src.norms import families as family
from tests.helpers.errors import error_is


class Nested(nn.Module):
    """A model with both layouts, nested norms, a norm that is used in two places and a weight that two norms share."""

    def __init__(self) -> None:
        super().__init__()
        shared = nn.BatchNorm2d(8, eps=1e-3, momentum=0.2)
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3), shared, nn.ModuleList([nn.GroupNorm(4, 8)]))
        self.again = shared
        self.tokens = nn.ModuleDict({"first": nn.LayerNorm(8, eps=1e-6), "second": nn.LayerNorm(8)})
        self.tokens["second"].weight = self.tokens["first"].weight


def test_finds_all_and_keeps_what_is_shared() -> None:
    model = Nested()
    old_shared = model.again
    replaced = swap_norms(model, NORMS["InstanceNorm"])
    assert list(replaced) == ["stem.1", "stem.2.0", "again", "tokens.first", "tokens.second"]
    assert replaced["again"] is old_shared
    assert model.stem[1] is model.again
    assert [type(model.get_submodule(name)).__name__ for name in replaced] == [
        *["InstanceNorm"] * 3,
        *["TokenInstanceNorm"] * 2,
    ]
    assert (model.again.eps, model.tokens["first"].eps) == (1e-3, 1e-6)


def test_same_kind_keeps_everything() -> None:
    model = Nested().eval().double()
    with torch.no_grad():
        for value in (*model.parameters(), model.again.running_mean):
            value.normal_()
    calls: list[nn.Module] = []
    model.again.register_forward_hook(lambda module, args, output: calls.append(module))
    model.again.weight.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    swap_norms(model, NORMS["BatchNorm"])
    assert type(model.again) is BatchNorm2d
    assert (model.again.eps, model.again.momentum, model.again.training) == (1e-3, 0.2, False)
    assert not model.again.weight.requires_grad
    for key in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(model.state_dict()[f"again.{key}"], before[f"again.{key}"])
    model.again(torch.randn(1, 8, 2, 2, dtype=torch.float64))
    assert calls == [model.again]


def test_the_original_is_left_alone() -> None:
    """The replaced layer is complete, and training the new layer does not change it."""
    model = nn.Sequential(nn.BatchNorm2d(4))
    replaced = swap_norms(model, NORMS["BatchNorm"])
    model(torch.randn(2, 4, 3, 3))
    assert replaced["0"].num_batches_tracked == 0
    model.set_submodule("0", replaced["0"])
    assert type(model[0]) is nn.BatchNorm2d


def test_tied_weights_stay_tied() -> None:
    model = Nested()
    swap_norms(model, NORMS["LayerNorm"])
    assert type(model.tokens["first"]) is LayerNorm
    assert model.tokens["first"].weight is model.tokens["second"].weight


def test_options_that_are_given_win() -> None:
    model = Nested()
    swap_norms(model, family.BatchNorm(eps=0.5, momentum=0.7))
    assert (model.again.eps, model.again.momentum) == (0.5, 0.7)
    assert (model.tokens["first"].eps, model.tokens["first"].momentum) == (0.5, 0.7)


@pytest.mark.parametrize("norm", [family.BatchNorm, family.TorchBatchNorm], ids=lambda norm: norm.__name__)
@pytest.mark.parametrize("replaced", [nn.BatchNorm1d, nn.LayerNorm], ids=lambda layer: layer.__name__)
def test_without_running_statistics_eval_takes_the_batchs(norm: type[family.BatchNorm], replaced: Any) -> None:
    """A batch norm without running statistics uses the statistics of the batch in eval.

    The replaced layer is of the same kind, with running statistics, or of another kind.
    """
    model = nn.Sequential(replaced(5))
    swap_norms(model, norm(track_running_stats=False))
    assert list(model.state_dict()) == ["0.weight", "0.bias"]
    x = 3 * torch.randn(7, 5) + 2
    trained = model(x)
    torch.testing.assert_close(trained, (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt())
    torch.testing.assert_close(model.eval()(x), trained)


@pytest.mark.parametrize("name", NORMS)
def test_device_dtype_and_training_flag(name: str) -> None:
    norm = family.GroupNorm(num_groups=2) if "Group" in name else NORMS[name]
    model = Nested().eval().to("meta", torch.float16)
    swap_norms(model, norm)
    assert not model.again.training
    assert {(p.device.type, p.dtype) for p in model.again.parameters()} <= {("meta", torch.float16)}


@pytest.mark.parametrize("affine", [True, False])
def test_a_norm_without_weights_is_replaced_by_one_without(affine: bool) -> None:
    model = nn.Sequential(nn.LayerNorm(8, elementwise_affine=affine))
    for name in ("BatchNorm", "InstanceNorm", "RMSNorm", "DynamicTanh", "TorchBatchNorm", "LayerNorm"):
        swap_norms(model, NORMS[name])
        assert (model[0].weight is not None) == affine, name


def test_no_bias_stays_no_bias() -> None:
    for name in ("BatchNorm", "InstanceNorm", "DynamicTanh", "TorchBatchNorm", "TorchLayerNorm"):
        model = nn.Sequential(nn.LayerNorm(8, bias=False))
        swap_norms(model, NORMS[name])
        assert model[0].bias is None, name
        assert model[0].weight is not None


def test_a_layer_that_does_not_fit_is_named_and_nothing_changes() -> None:
    model = nn.Sequential(nn.BatchNorm2d(64), nn.BatchNorm2d(24))
    before = list(model)
    with error_is(
        ValueError,
        "GroupNorm does not fit layer '1': 32 groups do not divide its 24 channels; "
        "num_groups=8 fits every norm asked for",
    ):
        swap_norms(model, NORMS["GroupNorm"])
    assert list(model) == before
    swap_norms(model, family.GroupNorm(num_groups=8))


def test_groups_of_one_feature_are_refused() -> None:
    with error_is(
        ValueError,
        "GroupNorm does not fit layer '0': 32 groups leave one value in each, which "
        "would always be normalized to 0; num_groups=16 fits every norm asked for",
    ):
        swap_norms(nn.Sequential(nn.LayerNorm(32)), NORMS["GroupNorm"])


def test_features_over_several_dimensions() -> None:
    model = nn.Sequential(nn.LayerNorm([3, 4]))
    with error_is(
        ValueError,
        "BatchNorm does not fit layer '0': it normalizes over several dimensions, "
        "(3, 4); only LayerNorm and RMSNorm of that shape can take its place",
    ):
        swap_norms(model, NORMS["BatchNorm"])
    swap_norms(model, NORMS["LayerNorm"])
    assert type(model[0]) is LayerNorm


def test_synchronized_batch_norms_stay_synchronized() -> None:
    group = object()  # stands for a process group, which cannot be copied
    model = nn.Sequential(nn.SyncBatchNorm(3))
    model[0].process_group = group
    replaced = swap_norms(model, NORMS["BatchNorm"])
    assert type(model[0]) is SyncBatchNorm
    assert model[0].process_group is group
    swap_norms(model, NORMS["TorchBatchNorm"])
    assert type(model[0]) is type(replaced["0"])
    assert model[0].process_group is group


def test_what_cannot_be_swapped_says_so() -> None:
    with error_is(
        ValueError,
        "the model is itself a norm (BatchNorm2d), which cannot be replaced in place: build the layer with "
        "NORMS[name](num_features, channel_dim)",
    ):
        swap_norms(nn.BatchNorm2d(3), NORMS["LayerNorm"])
    with error_is(ValueError, "layer '0' is a LazyBatchNorm2d, which cannot be swapped before its first input"):
        swap_norms(nn.Sequential(nn.LazyBatchNorm2d()), NORMS["BatchNorm"])


def test_a_librarys_rms_norm_is_taken_over() -> None:
    torch.manual_seed(0)
    sizes = {"vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 16, "pad_token_id": 0}
    model = LlamaForSequenceClassification(LlamaConfig(**sizes)).eval()
    with torch.no_grad():
        model.model.norm.weight.normal_()
    ids = torch.randint(1, 30, (2, 5))
    logits, keys = model(ids).logits, model.state_dict().keys()
    swap_norms(model, NORMS["RMSNorm"])
    assert type(model.model.norm) is RMSNorm
    torch.testing.assert_close(model(ids).logits, logits)
    assert model.state_dict().keys() == keys

    # Gemma's norm multiplies by 1 + weight. Its output differs from the output of an RMSNorm with the same weight.
    gemma = GemmaForSequenceClassification(GemmaConfig(**sizes)).eval()
    with torch.no_grad():
        gemma.model.norm.weight.fill_(0.5)
    swap_norms(gemma, NORMS["RMSNorm"])
    assert torch.equal(gemma.model.norm.weight, torch.ones(16))


def test_convnext_norms_are_maps_and_tokens() -> None:
    model = convnext_tiny(num_classes=3).eval()
    x = torch.randn(1, 3, 32, 32)
    logits = model(x)
    keys = model.state_dict().keys()
    swap_norms(model, NORMS["LayerNorm"])
    torch.testing.assert_close(model(x), logits, rtol=1e-4, atol=1e-5)
    assert model.state_dict().keys() == keys
    swap_norms(model, NORMS["BatchNorm"])
    assert model(x).shape == (1, 3)
    names = {type(m).__name__ for m in model.modules() if "BatchNorm" in type(m).__name__}
    assert names == {"BatchNorm", "TokenBatchNorm"}


def test_group_norm_keeps_its_groups_unless_given() -> None:
    model = nn.Sequential(nn.GroupNorm(4, 24), nn.BatchNorm2d(32))
    swap_norms(model, NORMS["GroupNorm"])
    assert [layer.num_groups for layer in model] == [4, 32]
    swap_norms(model, family.GroupNorm(num_groups=8))
    assert [layer.num_groups for layer in model] == [8, 8]
    with error_is(
        ValueError,
        "GroupNorm does not fit layer '0': 16 groups do not divide its 24 channels; num_groups=8 fits every norm "
        "asked for",
    ):
        swap_norms(model, family.GroupNorm(num_groups=16))


class Renamed(nn.LayerNorm):
    """A subclass with the computation of its base class."""


class WithActivation(nn.BatchNorm2d):
    """A subclass with another computation than its base class."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input).relu()


def test_subclasses_of_torchs_norms() -> None:
    model = nn.Sequential(Renamed(8))
    nn.init.constant_(model[0].weight, 3.0)
    swap_norms(model, NORMS["LayerNorm"])
    assert type(model[0]) is LayerNorm
    assert (model[0].weight == 3.0).all()
    with error_is(
        ValueError,
        "layer '0' (WithActivation) is a BatchNorm that has a formula of its own, which a swap would lose; "
        "replace it by a plain norm first",
    ):
        swap_norms(nn.Sequential(WithActivation(8)), NORMS["BatchNorm"])


@pytest.mark.parametrize("name", ["LayerNorm", "BatchNorm"])
def test_torchs_encoder_with_padding(name: str) -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).eval()
    x, padding = torch.randn(2, 4, 8), torch.tensor([[False] * 4, [False, False, True, True]])
    swap_norms(model, NORMS[name])
    with torch.no_grad():
        fused = model(x, src_key_padding_mask=padding)
    torch.testing.assert_close(fused, model(x, src_key_padding_mask=padding))


def test_torchs_encoder_does_not_go_around_the_norm() -> None:
    """torch's encoder calls the new norm, not its fused inference path.

    The fused path computes a layer norm from any layer that has a weight, a bias and an eps.
    """
    torch.manual_seed(0)
    model = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)).eval()
    swap_norms(model, family.BatchNorm())
    with torch.no_grad():
        model[0].norm1.running_mean.fill_(3.0)
    x = torch.randn(2, 3, 8)
    with torch.no_grad():
        fused = model(x)
    torch.testing.assert_close(fused, model(x))


KEPT = [
    "BatchNorm",
    "GroupNorm",
    "InstanceNorm",
    "LayerNorm",
    "DynamicTanh",
    "Derf",
    "TorchBatchNorm",
    "TorchLayerNorm",
]


@pytest.mark.parametrize("name", KEPT)
def test_another_kind_keeps_weight_and_bias(name: str) -> None:
    """The replaced layer keeps its own; a tied weight stays tied; what the replaced layer lacks starts afresh."""
    torch.manual_seed(0)
    norm = family.GroupNorm(num_groups=2) if name == "GroupNorm" else NORMS[name]
    model = Nested()
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    before = copy.deepcopy(model.state_dict())
    replaced = swap_norms(model, norm)
    after = model.state_dict()
    for layer_name, old in replaced.items():
        for key in ("weight", "bias"):
            assert torch.equal(after[f"{layer_name}.{key}"], before[f"{layer_name}.{key}"])
            assert model.get_submodule(layer_name).get_parameter(key) is not old.get_parameter(key)
    assert model.tokens["first"].weight is model.tokens["second"].weight
    assert sorted([*replaced.kept, *replaced.afresh]) == sorted(
        key for key in after if key.rpartition(".")[0] in replaced
    )
    afresh = [key for key in replaced.afresh if key.startswith("tokens.second")]
    expected = {
        "BatchNorm": ["running_mean", "running_var", "num_batches_tracked"],
        "TorchBatchNorm": ["running_mean", "running_var", "num_batches_tracked"],
        "DynamicTanh": ["alpha"],
        "Derf": ["alpha", "shift"],
    }
    assert afresh == [f"tokens.second.{key}" for key in expected.get(name, [])]


def test_elementwise_norms_give_weight_and_bias_on() -> None:
    model = nn.Sequential(nn.LayerNorm(8))
    swap_norms(model, NORMS["DynamicTanh"])
    nn.init.constant_(model[0].weight, 3.0)
    nn.init.constant_(model[0].bias, 2.0)
    swap_norms(model, NORMS["LayerNorm"])
    assert (model[0].weight == 3).all()
    assert (model[0].bias == 2).all()


def test_fresh_weights_stay_as_a_model_starts_them() -> None:
    """A ResNet that starts the last norm of each block at zero still does."""
    model = resnet18(zero_init_residual=True)
    swap_norms(model, NORMS["LayerNorm"])
    for name, parameter in model.named_parameters():
        if "bn" in name or "downsample.1" in name:
            zero = name.endswith("bias") or (name.startswith("layer") and "bn2" in name)
            assert (parameter == (0 if zero else 1)).all(), name


@pytest.mark.parametrize("name", ["LayerNorm", "BatchNorm", "DynamicTanh"])
def test_frozen_norms_stay_frozen(name: str) -> None:
    """Also what the replaced layer does not have, if it has parameters and all are frozen."""
    frozen, partly, free = nn.LayerNorm(8), nn.LayerNorm(8), nn.LayerNorm(8)
    frozen.requires_grad_(False)
    partly.bias.requires_grad_(False)
    model = nn.Sequential(frozen, partly, free)
    swap_norms(model, NORMS[name])
    for i, trained in enumerate([(False, False, False), (True, False, True), (True, True, True)]):
        names = ["weight", "bias", "alpha"]
        found = {key: parameter.requires_grad for key, parameter in model[i].named_parameters()}
        assert found == {key: each for key, each in zip(names, trained, strict=True) if key in found}


def test_a_librarys_frozen_norms_stay_frozen() -> None:
    """Gemma's weights are not kept, and are frozen all the same; Llama's are kept."""
    model = nn.Sequential(GemmaRMSNorm(8), LlamaRMSNorm(8), nn.LayerNorm(8, elementwise_affine=False))
    model.requires_grad_(False)
    swap_norms(model, NORMS["RMSNorm"])
    assert [parameter.requires_grad for parameter in model.parameters()] == [False, False]
    swap_norms(model, NORMS["DynamicTanh"])
    assert not any(parameter.requires_grad for layer in model[:2] for parameter in layer.parameters())
    assert model[2].alpha.requires_grad  # a layer without parameters does not say whether they train


@pytest.mark.parametrize("name", ["BatchNorm", "LayerNorm", "TorchGroupNorm"])
def test_hooks_stay_at_their_place(name: str) -> None:
    """Whatever the kind: with their options, for the same objects, and a handle still removes its hook."""

    class Recorder:
        def __init__(self) -> None:
            self.seen: list[str] = []

        def before(self, layer: nn.Module, args: Any, kwargs: Any) -> None:
            self.seen.append(f"before {type(layer).__name__}")

        def after(self, layer: nn.Module, args: Any, output: Any) -> None:
            self.seen.append("after")

        def backward(self, layer: nn.Module, grad_input: Any, grad_output: Any) -> None:
            self.seen.append("backward")

    recorder, model = Recorder(), nn.Sequential(nn.BatchNorm2d(64))
    model[0].register_forward_pre_hook(recorder.before, with_kwargs=True)
    handle = model[0].register_forward_hook(recorder.after)
    model[0].register_full_backward_hook(recorder.backward)
    swap_norms(model, NORMS[name])
    x = torch.randn(2, 64, 2, 2, requires_grad=True)
    model(x).sum().backward()
    assert recorder.seen == [f"before {type(model[0]).__name__}", "after", "backward"]
    handle.remove()
    model(x)
    assert recorder.seen[3:] == [f"before {type(model[0]).__name__}"]
