"""The probe finds each norm, and measures its last full call without padding."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.ops import Permute

from src.callbacks.norm_charts import QUANTITIES
from src.callbacks.norm_probe import NormProbe, find_norms
from src.models import ImageClassifier, LSTMClassifier, TextClassifier
from src.norms import NORMS, BatchNorm1d, families
from tests.helpers.small_net import measure


@pytest.mark.parametrize("name", NORMS)
def test_each_norm_is_seen_at_the_same_places(name: str, tmp_path: Path) -> None:
    """Norms come in the order of their calls. A norm lacks only the quantities of parts that it does not have."""
    model = ImageClassifier("resnet18", NORMS[name], stem="small", width=32)
    names = [norm.name for norm in find_norms(model.backbone)]
    assert len(names) == 20
    probe = NormProbe(model.backbone, find_norms(model.backbone))
    model(torch.randn(4, 3, 16, 16)).sum().backward()
    probe.remove()
    probe.measure_parameters()
    values = probe.read()
    assert sorted(norm.name for norm in probe.order) == sorted(names)
    assert [norm.name for norm in probe.order][:3] == ["bn1", "layer1.0.bn1", "layer1.0.bn2"]
    expected = set(QUANTITIES)
    if "BatchNorm" not in name:
        expected -= {"eval_gap"}
    if name == "Identity":
        expected -= {"weight_norm", "weight_gradient_norm"}
    if name == "Identity" or "RMSNorm" in name:
        expected -= {"bias_norm", "bias_gradient_norm"}
    for key in expected - {"stuck_share"}:
        assert {layer for quantity, layer in values if quantity == key} == set(names), key
    assert {quantity for quantity, _ in values} & set(QUANTITIES) == expected


def test_padding_is_left_out() -> None:
    """The measures do not depend on the length to which a batch is padded."""
    torch.manual_seed(0)
    model = TextClassifier(
        norm=NORMS["LayerNorm"], hidden_size=16, num_layers=1, num_heads=2, dropout=0.0, vocab_size=64
    )
    ids = torch.randint(1, 64, (3, 12))
    mask = (torch.arange(12) < torch.tensor([[5], [7], [9]])).long()
    found = []
    for length in (9, 12):
        probe = NormProbe(model.backbone, find_norms(model.backbone))
        model({"input_ids": ids[:, :length], "attention_mask": mask[:, :length]})
        probe.remove()
        found.append(probe.read())
    assert {quantity for quantity, _ in found[0]} == {*list(QUANTITIES)[:4], "stuck_share"}
    for key, value in found[0].items():
        assert found[1][key] == pytest.approx(value, rel=1e-4, abs=1e-6), key


def test_two_activations_after_a_residual() -> None:
    """In a ResNet's block, the shortcut's norm and the last norm share the activation after their sum."""
    model = ImageClassifier("resnet18", NORMS["BatchNorm"], stem="small", width=8)
    with torch.no_grad():
        for name in ("bn2", "downsample.1"):
            layer = model.backbone.get_submodule(f"layer2.0.{name}")
            layer.weight.zero_()  # type: ignore[union-attr,operator]
            layer.bias.fill_(-1)  # type: ignore[union-attr,operator]
    probe = NormProbe(model.backbone, find_norms(model.backbone))
    model(torch.randn(4, 3, 16, 16))
    values = probe.read()
    assert values["stuck_share", "layer2.0.bn2"] == values["stuck_share", "layer2.0.downsample.1"] == 1
    assert values["stuck_share", "layer2.0.bn1"] < 1


def test_the_channels_of_an_activation_are_those_of_the_norm_before_it() -> None:
    """In a ConvNeXt, a norm on `(N, C, H, W)` precedes the first block's norm, which is on `(N, H, W, C)`."""
    torch.manual_seed(0)
    model = nn.Sequential(
        NORMS["LayerNorm"](4, 1), Permute([0, 2, 3, 1]), NORMS["LayerNorm"](4, -1), nn.Linear(4, 16), nn.GELU()
    )
    with torch.no_grad():
        model[3].bias[:4] = -30
    found = measure(model, torch.randn(2, 4, 6, 6))
    assert found["stuck_share", "0"] == found["stuck_share", "2"] == 4 / 16


class Residual(nn.Module):
    """`x + 2 norm(x)`, where x is the output of a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.norm = NORMS["Identity"](3, -1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x)
        return x + 2 * self.norm(x)


def test_the_gradient_at_an_identity_is_without_that_of_other_ways() -> None:
    model, x = Residual(), torch.ones(2, 3)
    expected = 2 * 2 * model(x)  # the gradient of the sum of squares
    assert measure(model, x)["gradient_norm", "norm"] == pytest.approx(expected.norm().item(), rel=1e-5)


class Shared(nn.Module):
    """One norm that is called three times: before an activation, on other values, and on fewer values."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(3)
        self.activation = nn.ReLU()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        first = self.layer(self.activation(self.norm(0 * self.layer(x))))
        second = self.norm(5 + 3 * self.layer(x))
        return first + 2 * second + self.norm(self.layer(x[:1])).sum()


class Repeated(nn.Module):
    """A model whose forward pass is repeated in the backward pass."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.model, x, use_reentrant=False)


def test_of_a_layer_that_runs_several_times_the_last_full_run_counts() -> None:
    torch.manual_seed(0)
    model, x = Shared(), torch.randn(4, 3)
    taken = 5 + 3 * model.layer(x)
    with torch.no_grad():
        y = model(x)
    found = measure(model, x)
    assert found["input_mean", "norm"] == pytest.approx(taken.mean().item(), rel=1e-5)
    assert found["input_std", "norm"] == pytest.approx(taken.std(correction=0).item(), rel=1e-5)
    assert found["gradient_norm", "norm"] == pytest.approx((2 * 2 * y).norm().item(), rel=1e-5)
    assert ("stuck_share", "norm") not in found  # only the first call precedes the activation
    assert {key: value for key, value in measure(Repeated(model), x).items() if "gradient_norm" not in key[0]} == {
        (key, "model.norm"): value for (key, _), value in found.items() if "gradient_norm" not in key
    }
    assert measure(Repeated(model), x)["gradient_norm", "model.norm"] == pytest.approx(
        found["gradient_norm", "norm"], rel=1e-6
    )


@pytest.mark.parametrize("name", ["LayerNorm", "BatchNorm"])
def test_a_recurrence_is_seen_past_its_first_step(name: str) -> None:
    """The probe does not measure the first step, in which the state is 0."""
    torch.manual_seed(0)
    model = LSTMClassifier(norm=NORMS[name], hidden_size=8, vocab_size=20, max_length=6)
    steps: list[Tensor] = []
    handle = model.backbone.lstm.norm_hidden.norm.register_forward_pre_hook(lambda _, args: steps.append(args[0]))
    ids, lengths = torch.randint(1, 20, (4, 6)), torch.tensor([[6], [4], [6], [5]])
    found = measure(model.backbone, ids, (torch.arange(6) < lengths).long())
    handle.remove()
    assert [len(x) for x in steps] == [4, 4, 4, 4, 3, 2]
    assert found["input_std", "lstm.norm_hidden.norm"] == pytest.approx(steps[3].std(correction=0).item(), rel=1e-4)


@pytest.mark.parametrize("masked", [True, False])
def test_the_eval_gap_counts_padding_where_the_norm_does(masked: bool) -> None:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "dropout": 0.0, "vocab_size": 64}
    ids, mask = torch.randint(1, 64, (3, 12)), (torch.arange(12) < torch.tensor([[5], [7], [9]])).long()
    model = TextClassifier(norm=families.BatchNorm(masked=masked), **sizes).backbone
    norms = find_norms(model)
    seen: dict[nn.Module, tuple[Tensor, Tensor]] = {}
    for norm in norms:
        norm.layer.register_forward_hook(lambda layer, args, y: seen.update({layer: (args[0].detach(), y.detach())}))
    probe = NormProbe(model, norms)
    model(input_ids=ids, attention_mask=mask)
    probe.remove()
    found = probe.read()
    for norm in norms:
        layer, (x, y) = norm.layer, seen[norm.layer]
        in_eval = (x - layer.running_mean) / (layer.running_var + layer.eps).sqrt()  # weight 1, bias 0
        gap = (in_eval - y)[mask.bool()] if masked else in_eval - y
        assert found["eval_gap", norm.name] == pytest.approx(gap.square().mean().sqrt().item(), rel=1e-3)


def test_a_frozen_batch_norm_has_no_eval_gap() -> None:
    model = nn.Sequential(nn.Linear(3, 4), BatchNorm1d(4), nn.Linear(4, 4), BatchNorm1d(4))
    model[1].eval()
    found = measure(model, torch.randn(8, 3))
    assert [name for key, name in found if key == "eval_gap"] == ["3"]
