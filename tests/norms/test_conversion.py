"""Tools that convert batch norms by class: on tokens they convert right, or refuse."""

import copy
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.func import replace_all_batch_norm_modules_
from torch.nn.utils.fusion import fuse_linear_bn_eval
from torch.testing import assert_close

from src.norms import NORMS, SyncBatchNorm, swap_norms
from tests.helpers.errors import error_is
from tests.helpers.ranks import Ranks

SIZE = 6  # T equals D, where torch's layer would take T for the channels

OURS = (
    "TokenBatchNorm normalizes (..., D), and cannot be converted to a batch norm that normalizes (N, C, *), as "
    "torch.nn.SyncBatchNorm does. The layers of src.norms synchronize as they are: call "
    "SyncBatchNorm.convert_sync_batchnorm(model) of src.norms, or train with train.py and "
    "--trainer.sync_batchnorm=true."
)
TORCHS = (
    "TokenBatchNorm normalizes (..., D), and cannot be converted to a batch norm that normalizes (N, C, *), as "
    "torch.nn.SyncBatchNorm does. The layers of src.norms synchronize as they are: call "
    'swap_norms(model, NORMS["BatchNorm"]) and then SyncBatchNorm.convert_sync_batchnorm(model) of src.norms, or train '
    "with train.py and --trainer.sync_batchnorm=true."
)


def text_model(norm: str = "BatchNorm") -> nn.Module:
    """A model of tokens, with parameters and statistics other than the first ones."""
    model = nn.Sequential(nn.Linear(SIZE, SIZE), nn.LayerNorm(SIZE), nn.Linear(SIZE, SIZE), nn.LayerNorm(SIZE))
    swap_norms(model, NORMS[norm])
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=random) + 0.5)
    return model.double()


def tokens(rank: int) -> Tensor:
    random = torch.Generator().manual_seed(rank)
    return torch.randn(2 + rank, SIZE, SIZE, generator=random, dtype=torch.float64) + rank


@pytest.mark.parametrize(("norm", "message"), [("BatchNorm", OURS), ("TorchBatchNorm", TORCHS)])
def test_torchs_conversion_of_token_norms_is_refused(norm: str, message: str) -> None:
    model = text_model(norm)
    before = list(model)
    with error_is(ValueError, message):
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert list(model) == before
    with error_is(ValueError, message):
        nn.SyncBatchNorm.convert_sync_batchnorm(model[1])


def test_conversions_of_the_same_kind_are_refused() -> None:
    """timm, apex and transformers have functions of these names, which go through a model as torch's does."""

    def my_convert_sync_batchnorm(module: nn.Module) -> None:
        for _, child in module.named_children():
            my_convert_sync_batchnorm(child)

    def convert_splitbn_model(module: nn.Module) -> None:
        for _, child in module.named_children():
            convert_splitbn_model(child)

    for convert in (my_convert_sync_batchnorm, convert_splitbn_model):
        with error_is(ValueError, OURS):
            convert(text_model())


def test_who_else_asks_for_children_gets_them() -> None:
    layer = text_model()[1]
    assert list(layer.named_children()) == list(layer.children()) == []


@pytest.mark.parametrize("maps", [nn.BatchNorm2d, NORMS["BatchNorm"]], ids=["torch", "ours"])
def test_torchs_conversion_of_map_norms_works(maps: Any) -> None:
    assert type(nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(maps(4)))[0]) is nn.SyncBatchNorm


def step(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    x.requires_grad_()
    y = model(x)
    y.pow(3).sum().backward()
    assert x.grad is not None
    gradients = {f"gradient of {name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"output": y.detach(), "gradient of the input": x.grad, **gradients, **dict(model.named_buffers())}


def converted_step(norm: str) -> dict[str, Tensor]:
    model = text_model(norm)
    swap_norms(model, NORMS["BatchNorm"])
    return step(SyncBatchNorm.convert_sync_batchnorm(model), tokens(dist.get_rank()))


@pytest.mark.parametrize("norm", ["BatchNorm", "TorchBatchNorm"])
def test_our_conversion_makes_two_processes_one(norm: str) -> None:
    """The way out that the messages name."""
    with Ranks(2) as ranks:
        parts = ranks(2, converted_step, norm)
    expected = step(text_model(norm), torch.cat([tokens(0), tokens(1)]))
    for name, value in expected.items():
        found = [part[name] for part in parts]
        if name in ("output", "gradient of the input"):
            assert_close(torch.cat(found), value, msg=lambda m, name=name: f"{name}: {m}")
        elif name.startswith("gradient"):
            assert_close(found[0] + found[1], value, msg=lambda m, name=name: f"{name}: {m}")
        else:
            for each in found:
                assert_close(each, value, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("norm", ["BatchNorm", "TorchBatchNorm"])
def test_fusion_with_a_linear_layer_is_right(norm: str) -> None:
    model = text_model(norm).eval()
    fused = fuse_linear_bn_eval(model[0], model[1])
    assert_close(fused(tokens(0)), model[:2](tokens(0)))


@pytest.mark.parametrize("norm", ["BatchNorm", "TorchBatchNorm"])
def test_without_running_statistics_it_stays_a_norm_of_tokens(norm: str) -> None:
    model = text_model(norm)
    bare = replace_all_batch_norm_modules_(copy.deepcopy(model)).eval()
    assert_close(bare(tokens(0)), model(tokens(0)))  # model trains: statistics of the batch
