"""The multilayer perceptron, the LSTM and the 3-D ResNet with every norm."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from lightning import Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils.rnn import pack_padded_sequence

from src.models import Classifier, LSTMClassifier, MLPClassifier, VolumeClassifier
from src.models.lstm import NormalizedLSTM
from src.norms import NORMS, BatchNorm1d, BatchNorm3d, NormFamily, swap_norms
from src.norms import families as family
from tests.helpers.errors import error_is
from tests.helpers.ranks import Ranks
from tests.models.test_classifiers import outside_norms

FAMILIES = {**NORMS, "GroupNorm": family.GroupNorm(8), "TorchGroupNorm": family.TorchGroupNorm(8)}
ON_VECTORS = [name for name in NORMS if "InstanceNorm" not in name]
CASES = [("MLP", name) for name in ON_VECTORS] + [("LSTM", n) for n in ON_VECTORS] + [("Volume", n) for n in NORMS]
KINDS = ["MLP", "LSTM", "Volume"]
BUILD: dict[str, Callable[..., Classifier]] = {
    "MLP": lambda **options: MLPClassifier(hidden_size=32, in_features=24, num_classes=3, **options),
    "LSTM": lambda **options: LSTMClassifier(hidden_size=32, vocab_size=50, max_length=12, num_classes=3, **options),
    "Volume": lambda **options: VolumeClassifier(width=8, num_classes=3, **options),
}


def build(kind: str, norm: NormFamily | None, seed: int = 0, **options: Any) -> Classifier:
    torch.manual_seed(seed)
    return BUILD[kind](norm=norm, **options)


def texts(lengths: tuple[int, ...] = (9, 9, 4, 6)) -> dict[str, Tensor]:
    torch.manual_seed(1)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return {"input_ids": torch.randint(1, 50, mask.shape) * mask, "attention_mask": mask}


def inputs_of(kind: str) -> Any:
    torch.manual_seed(1)
    # A volume of 16 leaves 8 values in each map of the last stage: an instance norm needs several.
    return {"MLP": torch.randn(4, 24), "LSTM": texts(), "Volume": torch.randn(4, 1, 16, 16, 16)}[kind]


def running_means_before_a_step() -> Tensor:
    """The running means of an LSTM under DDP when its second step begins. The first process has the longer texts."""
    model = DistributedDataParallel(build("LSTM", NORMS["BatchNorm"]))
    found: list[Tensor] = []
    lengths = (4, 4) if dist.get_rank() else (9, 9)
    model(texts(lengths)).sum().backward()
    norm = model.module.backbone.lstm.norm_cell
    model.module.register_forward_pre_hook(lambda *_: found.append(norm.running_mean.clone()))
    model(texts(lengths))
    return found[0]


LABELS = torch.tensor([0, 1, 2, 0])
PLACES = {"MLP": ["norm1", "norm2"], "LSTM": ["lstm.norm_input", "lstm.norm_hidden.norm", "lstm.norm_cell.norm"]}


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_each_place_takes_the_norm_trains_and_round_trips(kind: str, name: str) -> None:
    norm = FAMILIES[name]
    model = build(kind, norm)
    layers = (norm.on_maps, norm.on_tokens, *norm.drop_ins)
    found = {n: m for n, m in model.backbone.named_modules() if type(m) in layers}
    assert list(found) == PLACES[kind] if kind in PLACES else len(found) == 12
    inputs = inputs_of(kind)
    model.loss(model(inputs), LABELS).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    again = build(kind, norm, seed=1)
    again.load_state_dict(model.state_dict(), strict=True)
    torch.testing.assert_close(again.eval()(inputs), model.eval()(inputs))
    assert not torch.allclose(
        build(kind, NORMS["DynamicTanh" if name == "Identity" else "Identity"])(inputs), model(inputs)
    )


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_swap_is_fair(kind: str, name: str) -> None:
    model, own = build(kind, FAMILIES[name]), build(kind, None)
    ours, theirs = outside_norms(model), outside_norms(own)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("norm", [None, family.BatchNorm(eps=1e-3), NORMS["LayerNorm"]], ids=["own", "batch", "layer"])
@pytest.mark.parametrize("kind", KINDS)
def test_checkpoint_holds_plain_values_and_reloads(kind: str, norm: NormFamily | None, tmp_path: Path) -> None:
    model, inputs = build(kind, norm), inputs_of(kind)
    model(inputs)  # updates the running statistics
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    again = type(model).load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    torch.testing.assert_close(again.eval()(inputs), model.eval()(inputs))
    assert dict(again.hparams)["norm"] == (None if norm is None else norm.spec())


@pytest.mark.parametrize(("kind", "ours"), [("MLP", BatchNorm1d), ("Volume", BatchNorm3d)])
def test_batch_norm_is_the_backbones_own(kind: str, ours: type[nn.Module]) -> None:
    model, own = build(kind, NORMS["BatchNorm"]).double(), build(kind, None).double()
    assert any(type(module) is ours for module in model.modules())
    inputs = inputs_of(kind).double()
    torch.testing.assert_close(model(inputs), own(inputs))
    torch.testing.assert_close(model.state_dict(), own.state_dict())


class TestMLP:
    def test_takes_images_and_volumes(self) -> None:
        model = MLPClassifier(in_features=2 * 4 * 4).eval()
        images = torch.randn(3, 2, 4, 4)
        torch.testing.assert_close(model(images), model(images.reshape(3, 2, 1, 4, 4)))

    @pytest.mark.parametrize("activation", ["relu", "sigmoid", "tanh"])
    def test_first_weights_are_of_their_papers_and_scaled(self, activation: Any) -> None:
        def weights(init_scale: float) -> Tensor:
            torch.manual_seed(0)
            model = MLPClassifier(
                activation=activation, init_scale=init_scale, hidden_size=400, num_layers=1, in_features=200
            )
            assert torch.equal(model.backbone.linear1.bias, torch.zeros(400))  # type: ignore[union-attr, arg-type]
            return model.backbone.get_parameter("linear1.weight").detach()

        expected = (2 / 200) ** 0.5 if activation == "relu" else (2 / (200 + 400)) ** 0.5
        assert weights(1.0).std().item() == pytest.approx(expected, rel=0.02)
        torch.testing.assert_close(weights(0.1), 0.1 * weights(1.0))

    def test_order_within_a_layer(self) -> None:
        """The order is linear, norm, activation, dropout, and the activation takes the output of the norm."""
        model = build("MLP", NORMS["BatchNorm"], num_layers=3)
        seen: dict[str, Tensor] = {}
        for name, module in model.backbone.named_children():
            module.register_forward_hook(lambda _, __, y, name=name: seen.update({name: y}))
        model(inputs_of("MLP"))
        order = [f"{part}{i}" for i in (1, 2, 3) for part in ("linear", "norm", "activation", "dropout")]
        assert list(seen) == ["flatten", *order, "classifier"]
        torch.testing.assert_close(seen["norm2"].mean(0), torch.zeros(32), atol=1e-5, rtol=0)
        assert torch.equal(seen["activation2"], seen["norm2"].relu())

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"hidden_size": 0}, "hidden_size=0: expected 1 or more"),
            ({"num_layers": 0}, "num_layers=0: expected 1 or more"),
            ({"init_scale": -1.0}, "init_scale=-1.0: expected a number above 0"),
            ({"dropout": 1.0}, "dropout=1.0: expected 0 <= dropout < 1"),
            (
                {"norm": NORMS["GroupNorm"], "hidden_size": 32},
                "GroupNorm does not fit layer 'norm1': 32 groups leave one value in each, which would always be "
                "normalized to 0; num_groups=16 fits every norm asked for",
            ),
        ],
    )
    def test_errors(self, options: dict[str, Any], message: str) -> None:
        with error_is(ValueError, message):
            MLPClassifier(**options)


@pytest.mark.parametrize("kind", ["MLP", "LSTM"])
@pytest.mark.parametrize("name", ["InstanceNorm", "TorchInstanceNorm"])
def test_instance_norm_does_not_fit_vectors(kind: str, name: str) -> None:
    with error_is(
        ValueError,
        f"norm={name}: its statistics run over the positions of a sample, and a vector (B, D) has none; take a norm of "
        "the batch (BatchNorm) or of the features (LayerNorm, RMSNorm, GroupNorm)",
    ):
        build(kind, NORMS[name])


class TestLSTM:
    def test_without_norms_is_torchs(self) -> None:
        torch.manual_seed(0)
        theirs, ours = nn.LSTM(5, 7).double(), NormalizedLSTM(5, 7, max_steps=9).double()
        swap_norms(ours, NORMS["Identity"])
        with torch.no_grad():
            ours.weight_ih.copy_(theirs.weight_ih_l0)
            ours.weight_hh.copy_(theirs.weight_hh_l0)
            ours.bias.copy_(theirs.bias_ih_l0 + theirs.bias_hh_l0)
        x = torch.randn(4, 9, 5, dtype=torch.float64)
        packed = pack_padded_sequence(x, torch.tensor([3, 9, 9, 1]), batch_first=True, enforce_sorted=False)
        expected, _ = theirs(packed)
        found = ours(packed)
        torch.testing.assert_close(found.data, expected.data, rtol=1e-10, atol=1e-10)
        gradients = [
            torch.autograd.grad(states.data.square().sum(), (lstm_ih, lstm_hh))
            for states, lstm_ih, lstm_hh in (
                (found, ours.weight_ih, ours.weight_hh),
                (expected, theirs.weight_ih_l0, theirs.weight_hh_l0),
            )
        ]
        torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-10, atol=1e-10)

    def test_equations_of_the_layer_normalized_lstm(self) -> None:
        """The output for one text follows arXiv 1607.06450, computed step by step with torch's layer norm."""
        torch.manual_seed(0)
        lstm = NormalizedLSTM(5, 7, max_steps=4).double()
        swap_norms(lstm, NORMS["LayerNorm"])
        with torch.no_grad():
            for norm in (lstm.norm_input, lstm.norm_hidden.norm, lstm.norm_cell.norm):
                for parameter in norm.parameters():
                    parameter.normal_()
        x = torch.randn(4, 5, dtype=torch.float64)

        def normalized(norm: nn.Module, value: Tensor) -> Tensor:
            return nn.functional.layer_norm(value, value.shape, *norm.parameters())

        h = c = torch.zeros(7, dtype=torch.float64)
        for step in range(4):
            gates = normalized(lstm.norm_hidden.norm, lstm.weight_hh @ h)
            gates = gates + normalized(lstm.norm_input, lstm.weight_ih @ x[step]) + lstm.bias
            i, f, g, o = gates.split(7)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(normalized(lstm.norm_cell.norm, c))
        packed = pack_padded_sequence(x[None], torch.tensor([4]), batch_first=True)
        torch.testing.assert_close(lstm(packed).data[-1], h)

    @pytest.mark.parametrize("name", ON_VECTORS)
    def test_padding_further_changes_nothing(self, name: str) -> None:
        def step(further: int) -> tuple[Tensor, dict[str, Tensor], list[Tensor]]:
            model = build("LSTM", FAMILIES[name], dropout=0.2).double()
            inputs = texts()
            inputs = {
                "input_ids": pad(inputs["input_ids"], (0, further), value=7),
                "attention_mask": pad(inputs["attention_mask"], (0, further)),
            }
            torch.manual_seed(2)  # dropout
            logits = model(inputs)
            gradients = torch.autograd.grad(logits.square().sum(), list(model.parameters()))
            return logits, model.state_dict(), list(gradients)

        torch.testing.assert_close(step(further=5), step(further=0))

    @pytest.mark.parametrize("name", ["LayerNorm", "RMSNorm", "GroupNorm", "Identity"])
    def test_no_text_sees_another(self, name: str) -> None:
        model, inputs = build("LSTM", FAMILIES[name]).double(), texts()
        alone = model({key: value[2:3, :4] for key, value in inputs.items()})
        torch.testing.assert_close(model(inputs)[2:3], alone)

    @pytest.mark.parametrize("name", ["BatchNorm", "TorchBatchNorm"])
    def test_batch_norms_statistics_are_of_one_step_and_its_texts(self, name: str) -> None:
        model = build("LSTM", NORMS[name]).double()
        lstm = model.backbone.lstm
        seen: list[Tensor] = []
        lstm.norm_hidden.norm.register_forward_pre_hook(lambda layer, args: seen.append(args[0].detach()))
        model(texts((9, 9, 4, 6)))
        assert [len(x) for x in seen] == [4] * 4 + [3] * 2 + [2] * 3
        for step, x in enumerate(seen):
            torch.testing.assert_close(lstm.norm_hidden.running_mean[step], 0.1 * x.mean(0))
            torch.testing.assert_close(lstm.norm_hidden.running_var[step], 0.9 + 0.1 * x.var(0))
        assert lstm.norm_hidden.num_batches_tracked.tolist() == [1] * 9 + [0] * 3
        assert torch.equal(lstm.norm_cell.running_var[9:], torch.ones(3, 32, dtype=torch.float64))
        # The norm's weights start at 0.1. A checkpoint holds the buffers of the steps, and not the norm's own buffers.
        torch.testing.assert_close(lstm.norm_cell.norm.weight.detach().float(), torch.full((32,), 0.1))
        assert "backbone.lstm.norm_hidden.norm.running_mean" not in model.state_dict()

    @pytest.mark.parametrize("name", ["BatchNorm", "TorchBatchNorm"])
    def test_no_buffer_is_a_part_of_another(self, name: str) -> None:
        """No buffers share memory: DDP's broadcast would overwrite one step's statistics with another's."""
        model = build("LSTM", NORMS[name])
        model(texts((9, 9, 4, 6)))
        storages = [buffer.untyped_storage().data_ptr() for buffer in model.backbone.buffers()]
        # The buffers belong to the input's norm, and to the two norms with statistics for each step.
        assert len(storages) == len(set(storages)) == 9

    @pytest.mark.slow  # starts processes; the test before checks the cause in one process
    def test_processes_whose_longest_texts_differ_keep_the_same_statistics(self) -> None:
        """When a batch begins, each process has the first process's statistics of every step."""
        with Ranks(2) as ranks:
            one, other = ranks(2, running_means_before_a_step)
        torch.testing.assert_close(other, one, rtol=0, atol=0)

    @pytest.mark.parametrize("name", ["BatchNorm", "TorchBatchNorm"])
    def test_evaluation_takes_each_steps_running_statistics(self, name: str) -> None:
        model = build("LSTM", NORMS[name]).double()
        norm = model.backbone.lstm.norm_cell
        with torch.no_grad():
            norm.running_mean.copy_(torch.arange(12)[:, None].expand(12, 32))
        model.eval()
        seen: list[tuple[Tensor, Tensor]] = []
        norm.norm.register_forward_hook(lambda layer, args, y: seen.append((args[0], y)))
        model(texts((14, 2)))  # steps 13 and 14 take the statistics of step 12
        for step, (x, y) in enumerate(seen):
            torch.testing.assert_close(y, 0.1 * (x - min(step, 11)) / (1 + norm.norm.eps) ** 0.5)
        assert len(seen) == 14

    @pytest.mark.parametrize("name", ["BatchNorm", "TorchBatchNorm"])
    def test_a_step_of_one_text_takes_the_running_statistics(self, name: str) -> None:
        model = build("LSTM", NORMS[name])
        model(texts((9, 4, 4))).sum().backward()
        assert model.backbone.lstm.norm_hidden.num_batches_tracked.tolist() == [1] * 4 + [0] * 8
        assert all(module.training for module in model.modules())

    def test_synchronization_is_refused(self) -> None:
        trainer = Trainer(
            accelerator="cpu", devices=2, strategy="ddp", sync_batchnorm=True, logger=False, enable_checkpointing=False
        )
        model = build("LSTM", NORMS["LayerNorm"])
        model.trainer = trainer
        model.setup("fit")
        model = build("LSTM", NORMS["BatchNorm"])
        model.trainer = trainer
        with error_is(
            MisconfigurationException,
            "sync_batchnorm cannot be honoured for an LSTM: its batch norms are called once a step, and each process "
            "takes as many steps as its longest text. Take a norm of single samples, such as --model.norm=LayerNorm, "
            "or no sync_batchnorm.",
        ):
            model.setup("fit")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"hidden_size": 0}, "hidden_size=0: expected 1 or more"),
            ({"dropout": -0.1}, "dropout=-0.1: expected 0 <= dropout < 1"),
            (
                {"norm": family.BatchNorm(masked=False)},
                "norm.masked=false: the LSTM takes no step at padding, and has none to count; take TextClassifier, or "
                "leave the option out",
            ),
            (
                {"norm": NORMS["GroupNorm"], "hidden_size": 32},
                "GroupNorm does not fit layer 'norm_cell': 32 groups leave one value in each, which would always be "
                "normalized to 0; num_groups=16 fits every norm asked for",
            ),
        ],
    )
    def test_errors(self, options: dict[str, Any], message: str) -> None:
        with error_is(ValueError, message):
            LSTMClassifier(**options)


class TestVolume:
    def test_order_of_the_frames_matters(self) -> None:
        model = build("Volume", NORMS["LayerNorm"]).double().eval()
        clip = torch.randn(1, 1, 8, 16, 16, dtype=torch.float64)
        assert (model(clip) - model(clip.flip(2))).abs().max() > 1e-3

    def test_stages(self) -> None:
        model = VolumeClassifier(width=4, num_classes=5, in_channels=2)
        seen: list[torch.Size] = []
        for name in ("stem", "layer1", "layer2", "layer3", "layer4"):
            model.backbone.get_submodule(name).register_forward_hook(lambda _, __, y: seen.append(y.shape))
        assert model(torch.randn(3, 2, 8, 16, 16)).shape == (3, 5)
        assert seen == [(3, 4, 8, 16, 16), (3, 4, 8, 16, 16), (3, 8, 4, 8, 8), (3, 16, 2, 4, 4), (3, 32, 1, 2, 2)]

    def test_width(self) -> None:
        with error_is(ValueError, "width=0: expected 1 or more"):
            VolumeClassifier(width=0)
