"""`--trainer.sync_batchnorm=true`: its effect on a run, the state after the run, and the cases that are refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn

from src.cli.sync_batchnorm import SyncNorms, check_sync
from src.models import ImageClassifier
from src.norms import NORMS, SyncBatchNorm, synchronize
from src.norms.torch_builtin import TokenBatchNorm
from tests.helpers.errors import error_is
from tests.helpers.train_command import PLAIN, last_weights, run_here, run_process

STEPS = [
    "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=4",
    "--trainer.log_every_n_steps=2",
    "--trainer.precision=64-true",
]
TRAIN = ["fit", "--config", "configs/digits.yaml", "--data.crop_padding=0", "--model.width=8", *STEPS, *PLAIN]


def test_two_processes_end_where_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes with half the batch each end with the weights and running statistics of one process."""
    (tmp_path / "one").mkdir(), (tmp_path / "two").mkdir()
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    two = ["--trainer.accelerator=cpu", "--trainer.strategy=ddp", "--trainer.devices=2", "--data.batch_size=32"]
    run = run_process(tmp_path / "two", *TRAIN, *two, "--trainer.sync_batchnorm=true")
    assert run.returncode == 0, run.stderr
    run_here(monkeypatch, tmp_path / "one", *TRAIN, "--data.batch_size=64")
    torch.testing.assert_close(last_weights(tmp_path / "two"), last_weights(tmp_path / "one"), rtol=1e-9, atol=1e-9)


def test_undo_gives_back_a_process_group() -> None:
    group: Any = object()
    layer = nn.SyncBatchNorm(4, process_group=group)
    undo = synchronize(nn.Sequential(layer), builtin=SyncBatchNorm)
    assert layer.process_group is group
    undo()
    assert type(layer) is nn.SyncBatchNorm
    assert layer.process_group is group


def test_lazy_layers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"layer '0' \(LazyBatchNorm2d\): it is lazy: give it a batch first"):
        synchronize(nn.Sequential(nn.LazyBatchNorm2d()))


def test_undo_gives_back_the_same_objects() -> None:
    shared = nn.BatchNorm2d(4)
    model = nn.ModuleDict({"ours": NORMS["BatchNorm"](4, channel_dim=1), "theirs": shared, "again": shared})
    model["already"] = SyncBatchNorm(4)
    model["theirs"].eval()
    hook = model["theirs"].register_forward_hook(lambda layer, args, y: y)
    before = {name: (layer, type(layer), dict(vars(layer))) for name, layer in model.items()}

    plugin = SyncNorms()
    assert plugin.apply(model) is model
    assert "synchronized" in repr(model["ours"])
    assert isinstance(model["theirs"], nn.SyncBatchNorm)
    assert model["theirs"] is model["again"] is shared
    assert hook.id in model["theirs"]._forward_hooks
    assert not model["theirs"].training
    model.double()

    assert plugin.revert(model) is model
    for name, (layer, layer_class, attributes) in before.items():
        assert model[name] is layer
        assert type(layer) is layer_class
        assert vars(layer).keys() == attributes.keys()
        assert all(vars(layer)[key] is value for key, value in attributes.items())
    assert shared.weight.dtype == torch.float64


def classifier(norm: str) -> ImageClassifier:
    return ImageClassifier(num_classes=10, in_channels=1, norm=NORMS[norm], width=8)


def test_what_is_refused() -> None:
    on_cpus = Trainer(accelerator="cpu", devices=2, strategy="ddp", logger=False)
    own_way = (
        "The project's own norms synchronize everywhere: --model.norm=BatchNorm; norms of single samples, such as "
    )
    own_way += "GroupNorm and LayerNorm, need not."
    for norm in ("BatchNorm", "LayerNorm", "TorchInstanceNorm"):
        check_sync(on_cpus, classifier(norm))
    with error_is(
        ValueError,
        "sync_batchnorm cannot be honoured for layer 'backbone.bn1' (BatchNorm2d): torch synchronizes its own batch "
        f"norms on GPUs alone. {own_way}",
    ):
        check_sync(on_cpus, classifier("TorchBatchNorm"))
    for layer in (TokenBatchNorm(4), nn.InstanceNorm2d(4, track_running_stats=True)):
        model = classifier("BatchNorm")
        model.backbone.layer1 = layer
        with error_is(
            ValueError,
            f"sync_batchnorm cannot be honoured for layer 'backbone.layer1' ({type(layer).__name__}): it is not a "
            f"plain batch norm of torch's, and has no form that shares its statistics. {own_way}",
        ):
            check_sync(on_cpus, model)
        assert not model.backbone.bn1.synchronized

    sharded = Trainer(accelerator="cpu", devices=2, strategy=ModelParallelStrategy(), logger=False)
    with error_is(
        ValueError,
        "sync_batchnorm=true has no effect under ModelParallelStrategy: take --trainer.strategy=ddp or fsdp, or a norm "
        "of single samples, such as --model.norm=GroupNorm, and no sync_batchnorm",
    ):
        check_sync(sharded, classifier("BatchNorm"))
    check_sync(Trainer(accelerator="cpu", devices=1, logger=False), classifier("TorchBatchNorm"))
