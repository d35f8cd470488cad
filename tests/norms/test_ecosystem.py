"""Whole models behave the same with our norms as with torch's: in trainers, sharding, initialization and tracing."""

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import transformers
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    BaseFinetuning,
    EMAWeightAveraging,
    StochasticWeightAveraging,
    WeightAveraging,
)
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecision, fully_shard
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.testing import assert_close
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import ResNet, resnet18
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.models.resnet import BasicBlock, Bottleneck
from transformers import BertConfig, BertForSequenceClassification

import src.norms
from src.norms import NORMS, swap_norms

WITH_TORCHS = ("BatchNorm", "LayerNorm", "RMSNorm", "GroupNorm", "InstanceNorm")
DROP_INS = (
    *("BatchNorm1d", "BatchNorm2d", "BatchNorm3d"),
    *("InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d"),
    *("LayerNorm", "RMSNorm", "GroupNorm"),
)


class Net(LightningModule):
    """A model that has each kind of norm once, from `torch.nn` or from `src.norms`."""

    def __init__(self, norms: ModuleType) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 8, 3),
            norms.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3),
            norms.InstanceNorm2d(8, affine=True, track_running_stats=True),
            norms.GroupNorm(2, 8),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(32, 16),
            norms.LayerNorm(16),
            nn.ReLU(),
            nn.Linear(16, 16),
            norms.BatchNorm1d(16, momentum=None),
            norms.RMSNorm(16),
        )
        self.head = nn.Linear(16, 2)
        for parameter in self.parameters():  # Lightning's finetuning takes weights of equal value for one parameter
            nn.init.normal_(parameter, 0.5, 0.3)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], 0.1)


def images(count: int) -> Tensor:
    return torch.randn(count, 3, 9, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def fitted(norms: ModuleType, callback: Callback, folder: Path) -> Net:
    model = Net(norms)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(
        max_epochs=4,
        accelerator="cpu",
        callbacks=[callback],
        default_root_dir=folder,
        enable_model_summary=False,
        log_every_n_steps=1,
        **quiet,
    )
    data = TensorDataset(images(12), torch.arange(12) % 2)
    trainer.fit(model, DataLoader(data, batch_size=4))
    return model


def assert_same_state(ours: nn.Module, theirs: nn.Module) -> None:
    """Assert that both models have the same names and values, and that the same parameters are trained."""
    assert_close(dict(ours.state_dict()), dict(theirs.state_dict()))
    assert [p.requires_grad for p in ours.parameters()] == [p.requires_grad for p in theirs.parameters()]


@pytest.mark.parametrize(
    "callback",
    [
        WeightAveraging,
        lambda: WeightAveraging(use_buffers=False),
        lambda: EMAWeightAveraging(decay=0.5),
        # Its last epoch does not train: it only computes the batch norms' statistics again.
        lambda: StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=1, annealing_epochs=1),
    ],
    ids=["average", "average of weights alone", "exponential", "stochastic"],
)
def test_weight_averaging(callback: Callable[[], Callback], tmp_path: Path) -> None:
    ours, theirs = (fitted(norms, callback(), tmp_path) for norms in (src.norms, nn))
    assert_same_state(ours, theirs)


class Freeze(BaseFinetuning):
    """Freezes the backbone for two epochs."""

    def __init__(self, train_bn: bool) -> None:
        super().__init__()
        self.train_bn = train_bn
        self.frozen: dict[str, Any] = {}

    def freeze_before_training(self, model: LightningModule) -> None:
        self.freeze(model.backbone, train_bn=self.train_bn)

    def finetune_function(self, model: LightningModule, epoch: int, optimizer: torch.optim.Optimizer) -> None:
        if epoch == 2:
            self.frozen = copy.deepcopy(model.state_dict())
            trained = {name: p.requires_grad for name, p in model.named_parameters()}
            tracked = [m.track_running_stats for m in model.modules() if hasattr(m, "track_running_stats")]
            self.frozen |= {"trained": trained, "tracked": tracked}
            self.unfreeze_and_add_param_group(model.backbone, optimizer, lr=0.05, train_bn=self.train_bn)


# The optimizer already has the batch norms that were not frozen. Unfreezing adds them again, with the other layers.
@pytest.mark.filterwarnings("ignore:The provided params to be frozen already exist within another group:UserWarning")
@pytest.mark.parametrize("train_bn", [True, False])
def test_finetuning(train_bn: bool, tmp_path: Path) -> None:
    freeze_ours, freeze_theirs = Freeze(train_bn), Freeze(train_bn)
    ours, theirs = fitted(src.norms, freeze_ours, tmp_path), fitted(nn, freeze_theirs, tmp_path)
    assert_close(freeze_ours.frozen, freeze_theirs.frozen)
    assert freeze_ours.frozen["trained"]["backbone.1.weight"] == train_bn
    assert_same_state(ours, theirs)


def shard_whole(model: Net) -> tuple[nn.Module, Callable[[], dict[str, Tensor]]]:
    wrapped = FullyShardedDataParallel(model, use_orig_params=True, device_id=torch.device("cpu"))
    return wrapped, lambda: full_state(wrapped)


def shard_mixed(model: Net) -> tuple[nn.Module, Callable[[], dict[str, Tensor]]]:
    """FSDP1 keeps each layer that it recognizes as a batch norm in full precision."""
    wrapped = FullyShardedDataParallel(
        model.float(),
        use_orig_params=True,
        device_id=torch.device("cpu"),
        auto_wrap_policy=ModuleWrapPolicy({nn.Linear}),
        mixed_precision=MixedPrecision(param_dtype=torch.bfloat16),
    )
    assert sum(isinstance(m, FullyShardedDataParallel) for m in wrapped.modules()) == 1 + 3 + 2
    return wrapped, lambda: full_state(wrapped)


def full_state(wrapped: FullyShardedDataParallel) -> dict[str, Tensor]:
    with FullyShardedDataParallel.summon_full_params(wrapped):
        return {name: value.detach().clone() for name, value in wrapped.module.state_dict().items()}


def shard_each(model: Net) -> tuple[nn.Module, Callable[[], dict[str, Tensor]]]:
    mesh = init_device_mesh("cpu", (2,))
    for layer in model.backbone:
        if any(True for _ in layer.parameters()):
            fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    gathered = lambda t: t.full_tensor() if hasattr(t, "full_tensor") else t.clone()  # noqa: E731
    return model, lambda: {name: gathered(value) for name, value in model.state_dict().items()}


SHARDINGS = {"FSDP1": shard_whole, "FSDP1 in mixed precision": shard_mixed, "FSDP2": shard_each}


def train_sharded(rank: int, file: str) -> None:
    """Assert that two steps of each sharding give one rank the same state with our norms as with torch's."""
    torch.set_num_threads(1)
    store = dist.FileStore(file, 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    try:
        for name, shard in SHARDINGS.items():
            states = []
            for norms in (src.norms, nn):
                model, state = shard(Net(norms))
                dtype = next(model.parameters()).dtype
                optimizer = torch.optim.SGD(model.parameters(), 0.1)
                for x in images(32).reshape(2, 2, 8, 3, 9, 9)[rank]:  # (2 steps, 8 images, C, H, W)
                    model(x.to(dtype)).square().mean().backward()
                    optimizer.step()
                    optimizer.zero_grad()
                states.append(state())
            tolerance = 1e-7 if dtype == torch.float64 else 0.1  # mixed precision: two steps in bfloat16
            assert_close(*states, rtol=tolerance, atol=tolerance, msg=lambda m, name=name: f"{name}: {m}")
            assert states[0]["backbone.1.num_batches_tracked"] == 2
    finally:
        dist.destroy_process_group()


def test_sharding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On two ranks, FSDP1, FSDP1 in mixed precision and FSDP2 give the weights and statistics of torch's norms."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    mp.spawn(train_sharded, (str(tmp_path / "store"),), nprocs=2)


def drop_in(norms: ModuleType, name: str) -> nn.Module:
    return getattr(norms, name)(*((2, 8) if name == "GroupNorm" else (8,)))


def displaced(layer: nn.Module) -> nn.Module:
    """The layer with a state that no norm starts with, so that a missing initialization is visible."""
    for tensor in (*layer.parameters(), *layer.buffers()):
        tensor.data.fill_(7)
    return layer


@pytest.mark.parametrize("zero_init_residual", [False, True])
@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
@pytest.mark.parametrize("name", ["BatchNorm2d", "GroupNorm"])
def test_torchvisions_initialization(name: str, block: type[BasicBlock | Bottleneck], zero_init_residual: bool) -> None:
    models = []
    for norms in (src.norms, nn):
        make = getattr(norms, name)
        torch.manual_seed(0)
        models.append(
            ResNet(
                block,
                [1, 1, 1, 1],
                num_classes=3,
                zero_init_residual=zero_init_residual,
                norm_layer=lambda n, make=make: displaced(make(8, n) if make.__name__ == "GroupNorm" else make(n)),
            )
        )
    ours, theirs = (model.state_dict() for model in models)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    last = "layer1.0.bn3.weight" if block is Bottleneck else "layer1.0.bn2.weight"
    assert (ours[last] == (0 if zero_init_residual else 1)).all()


def bert() -> BertForSequenceClassification:
    sizes = {"vocab_size": 9, "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    return BertForSequenceClassification(BertConfig(**sizes, intermediate_size=8, max_position_embeddings=4))


@pytest.mark.parametrize("name", DROP_INS)
def test_transformers_initialization(name: str) -> None:
    ours, theirs = (displaced(drop_in(norms, name)) for norms in (src.norms, nn))
    for layer in (ours, theirs):
        bert()._init_weights(layer)
    assert_same_state(ours, theirs)
    assert all((weight == 1).all() for key, weight in ours.named_parameters() if key == "weight")


@pytest.mark.parametrize("name", WITH_TORCHS)
def test_transformers_initialization_after_a_swap(name: str) -> None:
    ours, theirs = bert(), bert()
    for model, family in ((ours, NORMS[name]), (theirs, NORMS[f"Torch{name}"])):
        swap_norms(model, family)
        displaced(model)
        torch.manual_seed(0)
        model.apply(model._init_weights)
    assert_same_state(ours, theirs)


def test_transformers_weight_decay() -> None:
    """transformers' Trainer decays the same parameters with our norms as with torch's.

    The Trainer exempts each `nn.LayerNorm`, and each parameter whose name contains a norm.
    """
    decayed = []
    for norms in (src.norms, nn):
        layers = {str(number): drop_in(norms, name) for number, name in enumerate(DROP_INS)}
        model = nn.ModuleDict({"linear": nn.Linear(8, 8), "plain": norms.LayerNorm(8), **layers})
        decayed.append(transformers.Trainer.get_decay_parameter_names(None, model))
    assert decayed[0] == decayed[1]
    assert "linear.weight" in decayed[0]
    assert "plain.weight" not in decayed[0]


@pytest.mark.parametrize("name", WITH_TORCHS)
def test_transformers_weight_decay_after_a_swap(name: str) -> None:
    names = []
    for family in (NORMS[name], NORMS[f"Torch{name}"]):
        model = bert()
        swap_norms(model, family)
        names.append(transformers.Trainer.get_decay_parameter_names(None, model))
    assert names[0] == names[1]


@pytest.mark.parametrize("name", [*WITH_TORCHS, "DynamicTanh"])
def test_torchvisions_feature_extractor(name: str) -> None:
    """torch.fx records each of our norms as one call, as it records torch's norms."""
    torch.manual_seed(0)
    model = resnet18(num_classes=3).eval()
    swap_norms(model, NORMS[name])
    x = torch.randn(2, 3, 64, 64)
    extractor = create_feature_extractor(model, {"layer1.0.bn1": "norm", "fc": "logits"})
    found = extractor(x)
    assert found["norm"].shape == (2, 64, 16, 16)
    assert_close(found["logits"], model(x))
    assert type(extractor.get_submodule("layer1.0.bn1")) is type(model.get_submodule("layer1.0.bn1"))


@pytest.mark.filterwarnings(
    "ignore:.torch.jit.trace",  # torch.jit.trace is still in use, though torch.export is its successor
    # A trace records the results of its example's shape checks as constants, with torch's norms as with ours.
    "ignore:Converting a tensor to a Python:torch.jit.TracerWarning",
)
@pytest.mark.parametrize("training", [True, False])
def test_jit_trace(training: bool) -> None:
    model = Net(src.norms).backbone.train(training)
    traced = torch.jit.trace(copy.deepcopy(model), images(4), check_trace=False)
    traced.load_state_dict(model.state_dict())
    for count in (6, 3):
        assert_close(traced(images(count)), model(images(count)))
    assert_close(dict(traced.state_dict()), dict(model.state_dict()))


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_compiled_for_real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inductor's code for several norms in one graph gives the results of the norms, for more than one batch size."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch._dynamo.reset()
    layers = (src.norms.BatchNorm2d(4), src.norms.GroupNorm(2, 4), nn.Flatten(), src.norms.LayerNorm(36))
    plain = nn.Sequential(*layers).double()
    compiled = copy.deepcopy(plain)
    compiled.compile(fullgraph=True, dynamic=True)
    for count in (4, 6):
        x = torch.cat([images(count), images(count)[:, :1]], 1)[:, :, ::3, ::3].contiguous()  # (N, 4, 3, 3)
        outputs = []
        for model in (compiled, plain):
            y = model(x)
            y.pow(3).sum().backward()
            outputs.append(y)
        assert_close(*outputs)
    assert_same_state(compiled, plain)
    assert_close([p.grad for p in compiled.parameters()], [p.grad for p in plain.parameters()])
