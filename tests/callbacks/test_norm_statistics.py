"""What NormStatistics logs is what a hand computes, training stays what it was, and it warns of what goes wrong."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader
from torchvision.ops import Permute

from src.callbacks import FiniteLoss, NormStatistics
from src.callbacks.norm_charts import QUANTITIES, History, layout
from src.callbacks.norm_probe import MAX_VALUES, Place, Watch, eval_gap, find_places, moments, stuck_share, thinned
from src.callbacks.norm_warnings import NormWarnings
from src.models import ImageClassifier, LSTMClassifier, TextClassifier
from src.norms import NORMS, BatchNorm1d, families
from tests.jobs import run_jobs

Batch = tuple[Any, Tensor]


class Net(LightningModule):
    """A layer, a norm, an activation and a classifier, on `(N, 3)`."""

    def __init__(self, norm: nn.Module | None = None, lr: float = 0.1, compile: bool = False, repeat: bool = False):
        super().__init__()
        norm = BatchNorm1d(4) if norm is None else norm
        layers = [nn.Linear(3, 4), norm, nn.ReLU(inplace=True), nn.Dropout(0.2), nn.Linear(4, 2)]
        self.backbone = nn.Sequential(*layers)
        self.lr = lr
        self.repeat = repeat
        if compile:
            self.backbone.compile(backend="eager")

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.backbone, x, use_reentrant=False) if self.repeat else self.backbone(x)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


def batches(count: int = 6, size: int = 16, scale: float = 1.0) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    return [
        (scale * torch.randn(size, 3, generator=generator) + 1, torch.randint(2, (size,), generator=generator))
        for _ in range(count)
    ]


def fit(
    model: LightningModule, data: list[Batch], *callbacks: Callback, folder: Path | None = None, **options: Any
) -> None:
    logger = TensorBoardLogger(folder, "run", "0") if folder else False
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=logger,
        callbacks=list(callbacks),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        **options,
    )
    trainer.fit(model, DataLoader(data, batch_size=None))  # type: ignore[arg-type]


def events(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder / "run/0"), size_guidance={"images": 0}).Reload()


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    found = events(folder)
    tags = [tag for tag in found.Tags()["scalars"] if tag.startswith("norms/")]
    return {tag.removeprefix("norms/"): [(e.step, e.value) for e in found.Scalars(tag)] for tag in tags}


def test_the_numbers_are_those_of_a_hand_computation(tmp_path: Path) -> None:
    """The second of three watched steps of SGD, done by hand up to there with torch's own layer."""
    seed_everything(0)
    model = Net(nn.BatchNorm1d(4))
    model.backbone[3] = nn.Identity()
    data = batches()
    linear, norm, head = model.backbone[0], model.backbone[1], model.backbone[4]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    fit(model, data, NormStatistics(every_n_steps=2), folder=tmp_path)
    found = scalars(tmp_path)

    model.load_state_dict(state)
    model.train()
    optimizer = model.configure_optimizers()
    for step in range(3):
        x, labels = data[step]
        before = linear(x)
        after = norm(before)
        after.retain_grad()
        loss = nn.functional.cross_entropy(head(torch.relu(after)), labels)
        optimizer.zero_grad()
        loss.backward()
        if step < 2:
            optimizer.step()
    normalized = (before - before.mean(0)) / (before.var(0, correction=0) + norm.eps).sqrt()
    in_eval = (before - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
    expected = {
        "input_mean": before.mean(),
        "input_std": before.std(correction=0),
        "output_mean": after.mean(),
        "output_std": after.std(correction=0),
        "gradient_norm": after.grad.norm(),
        "weight_norm": norm.weight.norm(),
        "bias_norm": norm.bias.norm(),
        "weight_gradient_norm": norm.weight.grad.norm(),
        "bias_gradient_norm": norm.bias.grad.norm(),
        "eval_gap": (in_eval - normalized).square().mean().sqrt(),
        "stuck_share": (after < 0).all(0).float().mean(),
    }
    assert set(found) == {f"{name}/1" for name in expected}
    assert set(expected) == set(QUANTITIES)
    for name, value in expected.items():
        assert [step for step, _ in found[f"{name}/1"]] == [0, 2, 4]
        assert found[f"{name}/1"][1][1] == pytest.approx(value.item(), rel=1e-4, abs=1e-6), name


def test_nothing_in_training_changes() -> None:
    """Weights, running statistics and random numbers, to the bit; with activation checkpointing, too."""
    layers: list[Callable[[], nn.Module]] = [
        partial(BatchNorm1d, 4),
        partial(nn.LayerNorm, 4),
        partial(NORMS["DynamicTanh"], 4, channel_dim=-1),
        partial(NORMS["Identity"], 4, channel_dim=-1),
    ]
    for layer, repeat in [*((layer, False) for layer in layers), (layers[0], True)]:
        ends = []
        for callbacks in ([], [NormStatistics(every_n_steps=1), FiniteLoss()]):
            seed_everything(0)
            model = Net(layer(), repeat=repeat)
            fit(model, batches(), *callbacks)
            assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
            ends.append([*model.state_dict().values(), torch.get_rng_state()])
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(*ends, strict=True)), layer


def test_a_compiled_model_gives_the_same_numbers_and_is_not_compiled_again(tmp_path: Path) -> None:
    found = {}
    for compile in (False, True):
        torch.compiler.reset()
        torch._dynamo.utils.counters.clear()
        seed_everything(0)
        model = Net(compile=compile)
        model.backbone[3] = nn.Identity()
        seen = CompiledSteps()
        fit(model, batches(), NormStatistics(every_n_steps=3), seen, folder=tmp_path / str(compile))
        found[compile] = scalars(tmp_path / str(compile))
    assert seen.graphs == [0, 1, 1, 1, 1, 1]  # the first step is watched
    assert found[True].keys() == found[False].keys()
    for tag, values in found[False].items():
        assert [v for _, v in found[True][tag]] == pytest.approx([v for _, v in values], rel=1e-4, abs=1e-6), tag


class CompiledSteps(Callback):
    """How many graphs were compiled, after each step."""

    def __init__(self) -> None:
        self.graphs: list[int] = []

    def on_train_batch_end(self, *args: Any) -> None:
        self.graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])


@pytest.mark.parametrize("name", NORMS)
def test_each_norm_is_seen_at_the_same_places(name: str, tmp_path: Path) -> None:
    """In the order in which they run; what has no statistics, no parameters or no running ones lacks these alone."""
    model = ImageClassifier("resnet18", NORMS[name], stem="small", width=32)
    names = [place.name for place in find_places(model.backbone)]
    assert len(names) == 20
    watch = Watch(model.backbone, find_places(model.backbone))
    model(torch.randn(4, 3, 16, 16)).sum().backward()
    watch.remove()
    watch.look_at_parameters()
    values = watch.read()
    assert sorted(place.name for place in watch.order) == sorted(names)
    assert [place.name for place in watch.order][:3] == ["bn1", "layer1.0.bn1", "layer1.0.bn2"]
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
    """However far a batch is padded."""
    torch.manual_seed(0)
    model = TextClassifier(
        norm=NORMS["LayerNorm"], hidden_size=16, num_layers=1, num_heads=2, dropout=0.0, vocab_size=64
    )
    ids = torch.randint(1, 64, (3, 12))
    mask = (torch.arange(12) < torch.tensor([[5], [7], [9]])).long()
    found = []
    for length in (9, 12):
        watch = Watch(model.backbone, find_places(model.backbone))
        model({"input_ids": ids[:, :length], "attention_mask": mask[:, :length]})
        watch.remove()
        found.append(watch.read())
    assert {quantity for quantity, _ in found[0]} == {*list(QUANTITIES)[:4], "stuck_share"}
    for key, value in found[0].items():
        assert found[1][key] == pytest.approx(value, rel=1e-4, abs=1e-6), key


def bordered(shape: tuple[int, ...], dim: int) -> Tensor:
    """Noise, far larger along a border: at the first place of dimension `dim`."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)) + 2
    x.select(dim, 0).add_(30)
    return x


# Of the last maps, one position of as many as a map has.
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shape", [(8, 16, 96, 96), (64, 64, 32, 32), (1, 8, 512, 512), (512, 512, 7, 7)])
@pytest.mark.parametrize("dim", [2, 3])
def test_of_a_large_map_some_values_are_enough(shape: tuple[int, ...], dim: int, channels_last: bool) -> None:
    x = bordered(shape, dim)
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    seen = thinned(x, 1, None)
    assert MAX_VALUES / 2 < seen[0].numel() < 1.1 * MAX_VALUES < x.numel()
    means, variances = moments(*seen)
    all_means, all_variances = moments(x, 1, None)
    assert means.shape == all_means.shape
    assert means.mean().item() == pytest.approx(all_means.mean().item(), rel=0.02)
    assert variances.mean().item() == pytest.approx(all_variances.mean().item(), rel=0.05)


@pytest.mark.parametrize("shape", [(64, 128, 512), (256, 64, 1024), (2, 4096, 256)])
def test_of_long_texts_some_tokens_are_enough(shape: tuple[int, ...]) -> None:
    """Those after the first of each text, too, and their own places of the mask."""
    mask = torch.arange(shape[1]) < torch.linspace(2, shape[1], shape[0])[:, None]
    x = bordered(shape, 1).masked_fill(~mask[:, :, None], 1e6)
    seen = thinned(x, -1, mask)
    assert MAX_VALUES / 2 < seen[0].numel() < 1.1 * MAX_VALUES < x.numel()
    means, _ = moments(*seen)
    all_means, _ = moments(x, -1, mask)
    assert means.mean().item() == pytest.approx(all_means.mean().item(), rel=0.15)


def test_of_a_large_batch_some_vectors_are_enough_and_computed_in_float32() -> None:
    x = torch.randn(2**15, 16).half() + 1000
    seen = thinned(x, 1, None)
    assert seen[0].numel() == MAX_VALUES
    torch.testing.assert_close(moments(*seen)[1], x.float().var(0), rtol=0.1, atol=0)


def test_an_activation_that_is_alive_away_from_the_border_is_not_stuck() -> None:
    x = bordered((64, 64, 32, 32), 2) + 2
    x[:, :, 0] = -1
    assert stuck_share(nn.ReLU(), *thinned(x, 1, None)) == 0


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


def test_two_activations_after_a_residual() -> None:
    """Of a ResNet's block, the norm of the shortcut and the last one share the activation after their sum."""
    model = ImageClassifier("resnet18", NORMS["BatchNorm"], stem="small", width=8)
    with torch.no_grad():
        for name in ("bn2", "downsample.1"):
            layer = model.backbone.get_submodule(f"layer2.0.{name}")
            layer.weight.zero_()  # type: ignore[union-attr,operator]
            layer.bias.fill_(-1)  # type: ignore[union-attr,operator]
    watch = Watch(model.backbone, find_places(model.backbone))
    model(torch.randn(4, 3, 16, 16))
    values = watch.read()
    assert values["stuck_share", "layer2.0.bn2"] == values["stuck_share", "layer2.0.downsample.1"] == 1
    assert values["stuck_share", "layer2.0.bn1"] < 1


def watched(model: nn.Module, *inputs: Tensor) -> dict[tuple[str, str], float]:
    """What is found in one step."""
    watch = Watch(model, find_places(model))
    model(*inputs).square().sum().backward()
    watch.look_at_parameters()
    watch.remove()
    return watch.read()


def test_the_channels_of_an_activation_are_those_of_the_norm_before_it() -> None:
    """In a ConvNeXt, a norm of `(N, C, H, W)` goes before the first block's, which is of `(N, H, W, C)`."""
    torch.manual_seed(0)
    model = nn.Sequential(
        NORMS["LayerNorm"](4, 1), Permute([0, 2, 3, 1]), NORMS["LayerNorm"](4, -1), nn.Linear(4, 16), nn.GELU()
    )
    with torch.no_grad():
        model[3].bias[:4] = -30
    found = watched(model, torch.randn(2, 4, 6, 6))
    assert found["stuck_share", "0"] == found["stuck_share", "2"] == 4 / 16


class Residual(nn.Module):
    """`x + 2 norm(x)`, x being a layer's output."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.norm = NORMS["Identity"](3, -1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x)
        return x + 2 * self.norm(x)


def test_the_gradient_at_an_identity_is_without_that_of_other_ways() -> None:
    model, x = Residual(), torch.ones(2, 3)
    expected = 2 * 2 * model(x)  # of the sum of squares
    assert watched(model, x)["gradient_norm", "norm"] == pytest.approx(expected.norm().item(), rel=1e-5)


class Shared(nn.Module):
    """One norm that runs three times: before an activation, on other values, and on fewer of them."""

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
    """A forward pass that the backward pass repeats."""

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
    found = watched(model, x)
    assert found["input_mean", "norm"] == pytest.approx(taken.mean().item(), rel=1e-5)
    assert found["input_std", "norm"] == pytest.approx(taken.std(correction=0).item(), rel=1e-5)
    assert found["gradient_norm", "norm"] == pytest.approx((2 * 2 * y).norm().item(), rel=1e-5)
    assert ("stuck_share", "norm") not in found  # which was the first run's
    assert {key: value for key, value in watched(Repeated(model), x).items() if "gradient_norm" not in key[0]} == {
        (key, "model.norm"): value for (key, _), value in found.items() if "gradient_norm" not in key
    }
    assert watched(Repeated(model), x)["gradient_norm", "model.norm"] == pytest.approx(
        found["gradient_norm", "norm"], rel=1e-6
    )


@pytest.mark.parametrize("name", ["LayerNorm", "BatchNorm"])
def test_a_recurrence_is_seen_past_its_first_step(name: str) -> None:
    """Whose state is 0."""
    torch.manual_seed(0)
    model = LSTMClassifier(norm=NORMS[name], hidden_size=8, vocab_size=20, max_length=6)
    steps: list[Tensor] = []
    handle = model.backbone.lstm.norm_hidden.norm.register_forward_pre_hook(lambda _, args: steps.append(args[0]))
    ids, lengths = torch.randint(1, 20, (4, 6)), torch.tensor([[6], [4], [6], [5]])
    found = watched(model.backbone, ids, (torch.arange(6) < lengths).long())
    handle.remove()
    assert [len(x) for x in steps] == [4, 4, 4, 4, 3, 2]
    assert found["input_std", "lstm.norm_hidden.norm"] == pytest.approx(steps[3].std(correction=0).item(), rel=1e-4)


def test_the_eval_gap_of_a_constant_channel_is_its_shift() -> None:
    """Its outputs are equal in training and in eval where its mean is the running one."""
    layer = BatchNorm1d(2)
    assert eval_gap(layer, torch.zeros(2), torch.zeros(2)).item() == 0
    assert eval_gap(layer, torch.ones(2), torch.zeros(2)).item() == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize("masked", [True, False])
def test_the_eval_gap_counts_padding_where_the_norm_does(masked: bool) -> None:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "dropout": 0.0, "vocab_size": 64}
    ids, mask = torch.randint(1, 64, (3, 12)), (torch.arange(12) < torch.tensor([[5], [7], [9]])).long()
    model = TextClassifier(norm=families.BatchNorm(masked=masked), **sizes).backbone
    places = find_places(model)
    seen: dict[nn.Module, tuple[Tensor, Tensor]] = {}
    for place in places:
        place.layer.register_forward_hook(lambda layer, args, y: seen.update({layer: (args[0].detach(), y.detach())}))
    watch = Watch(model, places)
    model(input_ids=ids, attention_mask=mask)
    watch.remove()
    found = watch.read()
    for place in places:
        layer, (x, y) = place.layer, seen[place.layer]
        in_eval = (x - layer.running_mean) / (layer.running_var + layer.eps).sqrt()  # weight 1, bias 0
        gap = (in_eval - y)[mask.bool()] if masked else in_eval - y
        assert found["eval_gap", place.name] == pytest.approx(gap.square().mean().sqrt().item(), rel=1e-3)


def test_a_frozen_batch_norm_has_no_eval_gap() -> None:
    model = nn.Sequential(nn.Linear(3, 4), BatchNorm1d(4), nn.Linear(4, 4), BatchNorm1d(4))
    model[1].eval()
    found = watched(model, torch.randn(8, 3))
    assert [name for key, name in found if key == "eval_gap"] == ["3"]


def test_the_gradient_is_the_losss_in_gradient_accumulation_too(tmp_path: Path) -> None:
    found = []
    for count in (1, 3):
        seed_everything(0)
        model = Net()
        model.backbone[3] = nn.Identity()
        fit(
            model,
            batches(),
            NormStatistics(every_n_steps=1),
            folder=tmp_path / str(count),
            accumulate_grad_batches=count,
        )
        found.append(scalars(tmp_path / str(count))["gradient_norm/1"][0][1])
    assert found[1] == pytest.approx(found[0], rel=1e-5)


def test_the_layout_has_each_scalar_once_in_charts_of_ten(tmp_path: Path) -> None:
    seed_everything(0)
    fit(Net(), batches(), NormStatistics(every_n_steps=3), folder=tmp_path)
    found = events(tmp_path)
    (event,) = found.Tensors("custom_scalars__config__")
    page = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    assert [category.title for category in page.category] == [f"Norms. {q.title}" for q in QUANTITIES.values()]
    tags = [tag for category in page.category for chart in category.chart for tag in chart.multiline.tag]
    assert sorted(tags) == sorted(f"^norms/{name}$" for name in scalars(tmp_path))
    assert set(found.Tags()["images"]) == {f"norms/{name}" for name in QUANTITIES}

    many = layout({"input_mean": [f"layer{i}.bn" for i in range(61)]})["Norms. Input, mean"]
    assert [len(tags) for _, tags in many.values()] == [9, 9, 9, 9, 9, 8, 8]
    assert next(iter(many)) == "layer0.bn to layer8.bn"
    assert many["layer0.bn to layer8.bn"][1][0] == "^norms/input_mean/layer0[.]bn$"


def test_a_heat_map_has_a_row_for_each_layer_and_a_column_for_each_step() -> None:
    history = History()
    for step in (0, 50, 100):
        history.append(
            step, {("input_std", "a"): step + 1.0, ("input_std", "b"): 0.0, ("input_std", "c"): float("nan")}
        )
    (axes, _) = history.heat_maps({"input_std": ["a", "b", "c"]})["input_std"].axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", "c"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "50", "100"]
    shown = axes.images[0].get_array()
    assert shown[0].tolist() == [1, 51, 101]
    assert shown[2].mask.all()


def test_a_long_history_is_thinned_out() -> None:
    history = History()
    for step in range(2000):
        history.append(step, {("input_std", "a"): 1.0})
    assert 200 <= len(history) <= 400


def trouble(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("src.callbacks")]


def test_a_healthy_run_is_not_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    fit(Net(), batches(60), NormStatistics(every_n_steps=1), FiniteLoss())
    assert trouble(caplog) == []


def test_few_values_are_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    fit(Net(), batches(size=2), NormStatistics(every_n_steps=1))
    (message,) = [m for m in trouble(caplog) if "share" in m]
    assert message.startswith("step 0, layer '1': 2 values of its input (2, 4) share a mean.")


def test_an_exploding_running_variance_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    fit(Net(), [*batches(3), *batches(3, scale=1e4)], NormStatistics(every_n_steps=1, eval_gap_limit=1e9))
    (message,) = trouble(caplog)
    assert message.startswith("step 3, layer '1': its running variance explodes; the largest channel's is ")


def test_an_eval_gap_is_warned_of_once_the_running_statistics_have_settled(caplog: pytest.LogCaptureFixture) -> None:
    """A momentum of 0.5 has forgotten its start after 7 batches; before, a gap says nothing."""
    data = [(x + 50 * (-1) ** step, labels) for step, (x, labels) in enumerate(batches(20))]
    fit(Net(BatchNorm1d(4, momentum=0.5), lr=0.0), data, NormStatistics(every_n_steps=1))
    (message,) = trouble(caplog)
    assert message.startswith("step 6, layer '1': its outputs in eval, by running statistics, are ")
    caplog.clear()
    fit(Net(BatchNorm1d(4, momentum=0.5), lr=0.0), data, NormStatistics(every_n_steps=1, eval_gap_limit=1e3))
    assert trouble(caplog) == []


def test_an_eval_gap_that_is_not_a_number_is_not_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    watch: Any = SimpleNamespace(order=[Place("1", BatchNorm1d(4), "BatchNorm", 1)], num_values={}, shapes={})
    warnings = NormWarnings(eval_gap_limit=1.0)
    for gap, messages in ((float("nan"), 0), (float("inf"), 1)):
        warnings.look(0, watch, {("eval_gap", "1"): gap, ("num_batches", "1"): 1000.0})
        assert len(trouble(caplog)) == messages


@pytest.mark.parametrize("compile", [False, True])
def test_a_loss_that_is_not_finite_is_traced_to_its_layer_once(compile: bool, caplog: pytest.LogCaptureFixture) -> None:
    model = Net(compile=compile, lr=0.0)
    nn.init.constant_(model.backbone[0].weight, 2.0)  # type: ignore[arg-type]
    fit(model, [*batches(2), *((torch.full_like(x, 3e38), labels) for x, labels in batches(3))], FiniteLoss())
    (message,) = trouble(caplog)
    found = "It appeared first in the output of layer 'backbone.0' (Linear): its input reaches 3e+38."
    assert message.startswith(f"step 2: the loss is nan. {found} Lower --model.recipe.lr")


def test_seeking_the_layer_moves_nothing(caplog: pytest.LogCaptureFixture) -> None:
    data = [*batches(2), *((torch.full_like(x, 3e38), labels) for x, labels in batches(1))]
    ends = []
    for callbacks in ([], [FiniteLoss()]):
        seed_everything(0)
        model = Net()
        fit(model, data, *callbacks)
        ends.append((model.backbone[1].num_batches_tracked, torch.get_rng_state()))
    assert ends[0][0] == ends[1][0] == 3
    assert torch.equal(ends[0][1], ends[1][1])


def test_weights_that_are_not_finite_are_named(caplog: pytest.LogCaptureFixture) -> None:
    model = Net()
    with torch.no_grad():
        model.backbone[4].bias[0] = float("inf")
    fit(model, batches(2), FiniteLoss())
    (message,) = trouble(caplog)
    assert "output of layer 'backbone.4' (Linear): not finite any more: its bias." in message


FEW = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=4", "--data.batch_size=16", "--model.width=8"]
FEW += ["--trainer.limit_val_batches=1", "--trainer.limit_test_batches=1", "--norm_statistics.every_n_steps=2"]


@pytest.mark.parametrize("sync", [pytest.param("false", marks=pytest.mark.slow), "true"])
def test_two_processes(tmp_path: Path, sync: str) -> None:
    """The first one logs; what they do together is the same with and without, and none waits for the other."""
    command = ["fit", "--config=configs/digits.yaml", *FEW, f"--trainer.sync_batchnorm={sync}"]
    jobs = [(2, command), (2, [*command, "--norm_statistics.every_n_steps=0", "--experiment=off"])]
    for done in run_jobs(tmp_path, jobs):
        assert done.codes == [0, 0], done.shown
    found = EventAccumulator(str(tmp_path / "runs/digits/version_0")).Reload()
    steps = {tag: [e.step for e in found.Scalars(tag)] for tag in found.Tags()["scalars"] if tag.startswith("norms/")}
    assert len(steps) == 20 * len(QUANTITIES)
    assert all(value == [0, 2] for value in steps.values())
    off = EventAccumulator(str(tmp_path / "runs/off/version_0")).Reload()
    assert not any(tag.startswith("norms/") for tag in off.Tags()["scalars"])
    states = [
        torch.load(tmp_path / f"runs/{name}/version_0/checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for name in ("digits", "off")
    ]
    torch.testing.assert_close(*states, rtol=0, atol=0)
