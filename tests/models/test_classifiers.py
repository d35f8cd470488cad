"""The image and the text classifier with every norm."""

from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from lightning import Trainer
from torch import nn
from torchvision.models import ResNet18_Weights, resnet18
from torchvision.ops import FrozenBatchNorm2d

from src.models import Classifier, ImageClassifier, Recipe, TextClassifier
from src.models.classifier import put_norm
from src.norms import NORMS, NormFamily, swap_norms
from src.norms.recognize import is_norm
from tests.helpers.errors import error_is

EVERY = pytest.mark.parametrize("name", NORMS)
BOTH = pytest.mark.parametrize("kind", [ImageClassifier, TextClassifier])


def build(kind: type[Classifier], norm: NormFamily | None, seed: int = 0) -> Classifier:
    torch.manual_seed(seed)
    if kind is ImageClassifier:
        return ImageClassifier(norm=norm, stem="small", num_classes=3, in_channels=1)
    return TextClassifier(norm=norm, hidden_size=64, num_classes=3, vocab_size=50, max_length=16)


def batch(kind: type[Classifier]) -> tuple[Any, torch.Tensor]:
    torch.manual_seed(1)
    labels = torch.tensor([0, 1, 2, 0])
    if kind is ImageClassifier:
        return torch.randn(4, 1, 16, 16), labels
    mask = torch.ones(4, 9, dtype=torch.int64)
    mask[1, 4:] = 0
    return {"input_ids": torch.randint(1, 50, (4, 9)), "attention_mask": mask}, labels


def outside_norms(model: nn.Module) -> dict[str, torch.Tensor]:
    norms = {name for name, module in model.named_modules() if is_norm(module)}
    return {name: p for name, p in model.named_parameters() if name.rpartition(".")[0] not in norms}


@EVERY
@BOTH
def test_trains_swaps_back_and_round_trips(kind: type[Classifier], name: str) -> None:
    model = build(kind, NORMS[name])
    inputs, labels = batch(kind)
    loss = model.loss(model(inputs), labels)
    loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())

    again = build(kind, NORMS[name], seed=1)
    again.load_state_dict(model.state_dict(), strict=True)
    model.eval(), again.eval()
    torch.testing.assert_close(again(inputs), model(inputs))

    logits, keys = model(inputs), model.state_dict().keys()
    replaced = swap_norms(model.backbone, NORMS["DynamicTanh" if name == "Identity" else "Identity"])
    assert not torch.allclose(model(inputs), logits)
    swap_norms(model.backbone, NORMS[name])
    assert model.state_dict().keys() == keys
    for layer_name, layer in replaced.items():
        model.backbone.set_submodule(layer_name, layer)
    torch.testing.assert_close(model(inputs), logits)


@EVERY
@BOTH
def test_swap_is_fair(kind: type[Classifier], name: str) -> None:
    """A swap changes neither the initial weights outside the norms nor the weights that decay."""
    model, own = build(kind, NORMS[name]), build(kind, None)
    ours, theirs = outside_norms(model), outside_norms(own)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)

    def decayed(model: Classifier) -> set[str]:
        groups = model.recipe.build_optimizer(model.parameters()).param_groups
        ids = {id(p) for group in groups if group["weight_decay"] > 0 for p in group["params"]}
        return {name for name, p in model.named_parameters() if id(p) in ids}

    assert decayed(model) == decayed(own)
    assert decayed(model) <= ours.keys()


@pytest.mark.parametrize("name", ["BatchNorm", "LayerNorm"])
@BOTH
def test_norms_own_kind_gives_the_backbones_numbers(kind: type[Classifier], name: str) -> None:
    model, own = build(kind, NORMS[name]).double().eval(), build(kind, None).double().eval()
    inputs, _ = batch(kind)
    inputs = inputs.double() if kind is ImageClassifier else inputs
    same_kind = name == ("BatchNorm" if kind is ImageClassifier else "LayerNorm")
    assert (model.state_dict().keys() == own.state_dict().keys()) == same_kind
    assert torch.allclose(model(inputs), own(inputs), rtol=1e-10, atol=1e-10) == same_kind


@pytest.mark.parametrize("norm", [None, NORMS["GroupNorm"]], ids=["own", "GroupNorm"])
@BOTH
def test_checkpoint_holds_plain_values_and_reloads(
    kind: type[Classifier], norm: NormFamily | None, tmp_path: Path
) -> None:
    model = build(kind, norm).eval()
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    again = kind.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True).eval()
    inputs, _ = batch(kind)
    torch.testing.assert_close(again(inputs), model(inputs))
    assert dict(again.hparams)["norm"] == (None if norm is None else norm.spec())


def test_compiling_keeps_the_state_dicts_keys() -> None:
    model = ImageClassifier(compile=True)
    keys = model.state_dict().keys()
    model.setup("fit")
    assert model.backbone._compiled_call_impl is not None
    assert model.state_dict().keys() == keys


@BOTH
def test_compiled_gives_the_same_loss(kind: type[Classifier]) -> None:
    """The norm is BatchNorm: the compiled model must update its statistics and apply the padding mask."""
    plain, compiled = build(kind, NORMS["BatchNorm"]), build(kind, NORMS["BatchNorm"])
    compiled.compile_backbone = True
    compiled.setup("fit")
    inputs, labels = batch(kind)
    for model in (plain, compiled):
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
    for _ in range(2):
        losses = [model.loss(model(inputs), labels) for model in (plain, compiled)]
        torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(compiled.state_dict(), plain.state_dict(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backbone", ["resnet34", "mobilenet_v3_small", "shufflenet_v2_x0_5", "regnet_y_400mf"])
def test_other_image_backbones(backbone: str) -> None:
    model = ImageClassifier(backbone=backbone, norm=NORMS["LayerNorm"], num_classes=5, in_channels=1)
    assert model(torch.randn(2, 1, 64, 64)).shape == (2, 5)


@pytest.mark.parametrize(
    ("backbone", "width", "features"), [("resnet18", 24, 24), ("resnet50", 16, 64), ("resnext50_32x4d", 32, 128)]
)
@pytest.mark.parametrize("stem", ["standard", "small"])
def test_width(backbone: str, width: int, features: int, stem: Literal["standard", "small"]) -> None:
    model = ImageClassifier(backbone, stem=stem, width=width, num_classes=5, in_channels=1)
    resnet = model.backbone
    seen: dict[int, torch.Size] = {}
    for i in range(1, 5):
        resnet.get_submodule(f"layer{i}").register_forward_hook(lambda _, __, y, i=i: seen.update({i: y.shape}))
    assert model(torch.randn(2, 1, 64, 64)).shape == (2, 5)
    size = 16 if stem == "standard" else 64
    assert seen == {i: (2, features * 2 ** (i - 1), size // 2 ** (i - 1), size // 2 ** (i - 1)) for i in range(1, 5)}


def test_width_64_is_the_resnets_own() -> None:
    own, asked = ImageClassifier("resnet50"), ImageClassifier("resnet50", width=64)
    assert {k: v.shape for k, v in own.state_dict().items()} == {k: v.shape for k, v in asked.state_dict().items()}
    for theirs, ours in zip(own.modules(), asked.modules(), strict=True):
        if isinstance(theirs, nn.Conv2d) and isinstance(ours, nn.Conv2d):
            assert (theirs.stride, theirs.padding, theirs.groups) == (ours.stride, ours.padding, ours.groups)
            torch.testing.assert_close(theirs.weight.std(), ours.weight.std(), rtol=0.05, atol=0)


def build_small(channels_last: bool, norm: NormFamily | None = None, in_channels: int = 1) -> ImageClassifier:
    torch.manual_seed(0)
    return ImageClassifier(norm=norm, stem="small", width=32, channels_last=channels_last, in_channels=in_channels)


@pytest.mark.parametrize("in_channels", [1, 3])
@pytest.mark.parametrize("norm", [None, "BatchNorm", "LayerNorm", "GroupNorm"])
def test_channels_last_holds_in_each_map(norm: str | None, in_channels: int) -> None:
    model = build_small(True, norm and NORMS[norm], in_channels)
    strays = []

    def look(name: str, y: torch.Tensor) -> None:
        if not y.is_contiguous(memory_format=torch.channels_last):
            strays.append(name)

    modules = {name: module for name, module in model.backbone.named_modules() if name not in ("", "avgpool", "fc")}
    for name, module in modules.items():
        module.register_forward_hook(lambda _, __, y, name=name: look(name, y))
    model(torch.randn(4, in_channels, 16, 16))
    assert len(modules) > 60
    assert strays == []


def test_channels_last_gives_the_same_numbers_and_checkpoints() -> None:
    contiguous, last = build_small(False).double(), build_small(True).double()
    images = torch.randn(4, 1, 16, 16, dtype=torch.float64)
    gradients = []
    for model in (contiguous, last):
        logits = model(images)
        logits.square().sum().backward()
        gradients.append({"logits": logits, **{name: p.grad for name, p in model.named_parameters()}})
    torch.testing.assert_close(gradients[1], gradients[0])

    other = build_small(False).double()
    other.load_state_dict(last.state_dict(), strict=True)
    last.load_state_dict(contiguous.state_dict(), strict=True)
    torch.testing.assert_close(other.eval()(images), last.eval()(images))
    for model, memory_format in ((other, torch.contiguous_format), (last, torch.channels_last)):
        weight = model.backbone.get_parameter("layer1.0.conv1.weight")
        assert weight.is_contiguous(memory_format=memory_format)


TYPES = ["distilbert", "roberta", "electra", "modernbert", "gpt2", "llama", "deberta-v2"]


@pytest.mark.parametrize("backbone", TYPES)
def test_other_text_backbones(backbone: str) -> None:
    """The options set the sizes and the dropout of each model type, though each type has other names for them."""
    sizes = {"hidden_size": 32, "num_heads": 2, "dropout": 0.3}
    model = TextClassifier(backbone, NORMS["BatchNorm"], **sizes, num_classes=5, vocab_size=50, max_length=16)
    ids = torch.randint(1, 50, (2, 16))
    assert model({"input_ids": ids, "attention_mask": torch.ones_like(ids)}).shape == (2, 5)
    assert model.backbone.config.num_hidden_layers == 2
    assert max(max(p.shape) for p in model.parameters()) <= 4 * 32 * 2  # no layer has the size of the published model
    dropouts = {module.p for module in model.modules() if isinstance(module, nn.Dropout)}
    assert dropouts <= {0.3, 0.0}


def test_gray_images_see_what_three_equal_channels_gave() -> None:
    from src.models.image import build_torchvision_model, take_channels

    model = build_torchvision_model("resnet18", 4, None).eval()
    gray = torch.randn(2, 1, 32, 32)
    logits = model(gray.expand(-1, 3, -1, -1))
    take_channels(model, 1)
    torch.testing.assert_close(model(gray), logits, rtol=1e-4, atol=1e-5)


def test_a_pretrained_directory(tmp_path: Path) -> None:
    first = TextClassifier(hidden_size=32, num_heads=2, vocab_size=50, max_length=16)
    first.backbone.save_pretrained(tmp_path)
    second = TextClassifier(pretrained=str(tmp_path), norm=NORMS["LayerNorm"], num_classes=7)
    theirs, ours = first.backbone.state_dict(), second.backbone.state_dict()
    assert all(torch.equal(theirs[key], ours[key]) for key in theirs if not key.startswith("classifier"))
    assert ours["classifier.weight"].shape == (7, 32)


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("lightning")]


@pytest.mark.parametrize(
    ("norm", "kept", "afresh"),
    [
        (None, "weight, bias", ""),
        (NORMS["GroupNorm"], "weight, bias", "nothing"),
        (NORMS["RMSNorm"], "weight", "nothing"),
        (NORMS["DynamicTanh"], "weight, bias", "alpha"),
        (NORMS["BatchNorm"], "weight, bias, running_mean, running_var, num_batches_tracked", "nothing"),
    ],
    ids=str,
)
def test_the_log_says_what_starts_afresh_in_an_image_model(
    norm: NormFamily | None, kept: str, afresh: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    pretrained = resnet18().state_dict()
    for key in pretrained:
        if "bn" in key and pretrained[key].is_floating_point():
            pretrained[key] += torch.rand_like(pretrained[key])
    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", lambda self, **options: pretrained)
    with caplog.at_level("INFO"):
        model = ImageClassifier("resnet18", norm=norm, weights="DEFAULT", num_classes=3)
    expected = ["resnet18: pretrained weights DEFAULT; starting afresh: fc.bias, fc.weight"]
    if norm is not None:
        expected.append(
            f"20 norms of the pretrained model are replaced by {type(norm).__name__}; kept: {kept}; starting afresh: "
            f"{afresh}"
        )
    assert messages(caplog) == expected
    state = model.backbone.state_dict()
    for key in kept.split(", "):
        assert torch.equal(state[f"layer1.0.bn1.{key}"], pretrained[f"layer1.0.bn1.{key}"])


def test_the_log_says_what_starts_afresh_in_a_text_model(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = TextClassifier(hidden_size=32, num_heads=2, vocab_size=50, max_length=16)
    for name, parameter in first.backbone.named_parameters():
        if "LayerNorm" in name:
            nn.init.normal_(parameter)
    first.backbone.save_pretrained(tmp_path)
    with caplog.at_level("INFO"):
        model = TextClassifier(pretrained=str(tmp_path), norm=NORMS["BatchNorm"], num_classes=7)
    assert messages(caplog) == [
        f"{tmp_path}: pretrained weights; starting afresh: classifier.bias, classifier.weight",
        "5 norms of the pretrained model are replaced by BatchNorm; kept: weight, bias; starting afresh: running_mean, "
        "running_var, num_batches_tracked",
    ]
    key = "bert.embeddings.LayerNorm.weight"
    assert torch.equal(model.backbone.state_dict()[key], first.backbone.state_dict()[key])


class FrozenNet(nn.Sequential):
    pass


class TestErrors:
    def test_norms_that_are_all_left_alone(self) -> None:
        frozen = FrozenNet(FrozenBatchNorm2d(8))
        with (
            pytest.warns(UserWarning, match="BatchNorm leaves norms alone: '0': its weight is frozen in a buffer"),
            error_is(
                ValueError,
                "norm=BatchNorm: FrozenNet has no norms that it could replace ('0': its weight is frozen in a buffer); "
                "take a backbone with norms (vgg11_bn for vgg11, say) or norm=null",
            ),
        ):
            put_norm(frozen, NORMS["BatchNorm"], pretrained=False)

    def test_norm_on_a_backbone_without_norms(self) -> None:
        with error_is(
            ValueError,
            "norm=BatchNorm: AlexNet has no norms that it could replace; take a backbone with norms (vgg11_bn for "
            "vgg11, say) or norm=null",
        ):
            ImageClassifier(backbone="alexnet", norm=NORMS["BatchNorm"])

    def test_small_stem_on_a_transformer(self) -> None:
        with error_is(
            ValueError,
            "stem=small is for ResNets (resnet18, resnext50_32x4d, ...), not mobilenet_v3_small: take stem=standard",
        ):
            ImageClassifier(backbone="mobilenet_v3_small", stem="small")

    def test_width_of_another_backbone(self) -> None:
        with error_is(
            ValueError,
            "width=32 is for ResNets (resnet18, resnext50_32x4d, ...), not vgg11_bn: take width=null",
        ):
            ImageClassifier(backbone="vgg11_bn", width=32)

    @pytest.mark.parametrize(
        ("backbone", "width", "expected"),
        [
            ("resnet18", 0, "a number above 0"),
            ("resnet50", -8, "a number above 0"),
            ("resnext50_32x4d", 24, "a multiple of 16 above 0"),
        ],
    )
    def test_width(self, backbone: str, width: int, expected: str) -> None:
        with error_is(ValueError, f"width={width}: expected {expected} for {backbone}"):
            ImageClassifier(backbone=backbone, width=width)

    def test_width_with_pretrained_weights(self) -> None:
        with error_is(ValueError, "width=32 and weights=DEFAULT: pretrained weights are of width=null; give one alone"):
            ImageClassifier(width=32, weights="DEFAULT")

    def test_unknown_weights(self) -> None:
        with error_is(
            ValueError,
            "unknown weights of resnet18 'IMAGENET'. Did you mean 'IMAGENET1K_V1'? There are: DEFAULT, IMAGENET1K_V1",
        ):
            ImageClassifier(weights="IMAGENET")

    def test_heads_that_do_not_divide(self) -> None:
        with error_is(ValueError, "hidden_size=30 cannot be split over num_heads=4"):
            TextClassifier(hidden_size=30)

    def test_unknown_option_of_the_config(self) -> None:
        with pytest.raises(
            ValueError, match=r"^unknown option of bert's config 'hiden_act'\. Did you mean 'hidden_act'\?"
        ):
            TextClassifier(config={"hiden_act": "relu"})

    def test_unknown_text_backbone(self) -> None:
        with pytest.raises(
            ValueError, match=r"^unknown backbone 'berd'\. Did you mean 'bert'\? There are: .*modernbert"
        ):
            TextClassifier(backbone="berd")

    def test_a_pretrained_model_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(
            ValueError, match=r"could not be loaded: expected a directory with config\.json and weights"
        ):
            TextClassifier(pretrained=str(tmp_path))

    @pytest.mark.parametrize(
        ("option", "value", "expected"),
        [
            ("lr", 0.0, "a number above 0"),
            ("momentum", 1.0, "0 <= momentum < 1"),
            ("weight_decay", -1.0, "0 or more"),
            ("warmup", 1.0, "a share of the steps, 0 <= warmup < 1"),
            ("label_smoothing", 1.0, "0 <= label_smoothing < 1"),
        ],
    )
    def test_recipe(self, option: str, value: float, expected: str) -> None:
        with error_is(ValueError, f"recipe.{option}={value}: expected {expected}"):
            Recipe(**{option: value})  # type: ignore[arg-type]
