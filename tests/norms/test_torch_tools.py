"""torch's norms in the place of ours, for tools that know torch's classes only: scripting, fusion, quantization."""

import copy
from pathlib import Path

import pytest
import torch
from lightning import Trainer
from torch import Tensor, nn
from torch.ao.quantization import get_default_qconfig_mapping
from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx
from torch.fx.experimental.optimization import fuse
from torch.nn.modules.batchnorm import _BatchNorm
from torch.testing import assert_close
from torch.utils.data import DataLoader, TensorDataset

from src.models import ImageClassifier
from src.norms import NORMS, swap_norms
from src.norms.family import NormFamily

KINDS = ("BatchNorm", "LayerNorm", "RMSNorm", "GroupNorm", "InstanceNorm")
DEPRECATED = pytest.mark.filterwarnings(
    "ignore:.torch.jit.:DeprecationWarning", "ignore:.torch.jit.:FutureWarning", "ignore::UserWarning:torch.ao"
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a small ResNet that was trained with our batch norm."""
    torch.manual_seed(0)
    model = ImageClassifier(norm=NORMS["BatchNorm"], stem="small", width=4, num_classes=3)
    trainer = Trainer(
        max_epochs=1,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    generator = torch.Generator().manual_seed(1)
    data = TensorDataset(torch.randn(8, 3, 16, 16, generator=generator), torch.arange(8) % 3)
    trainer.fit(model, DataLoader(data, batch_size=4), DataLoader(data, batch_size=4))
    path = tmp_path_factory.mktemp("run") / "model.ckpt"
    trainer.save_checkpoint(path)
    return path


@pytest.fixture
def ours(checkpoint: Path) -> nn.Module:
    return ImageClassifier.load_from_checkpoint(checkpoint, weights_only=True).eval().backbone


@pytest.fixture
def theirs(ours: nn.Module) -> nn.Module:
    """The model with torch's norms."""
    model = copy.deepcopy(ours)
    swap_norms(model, NORMS["TorchBatchNorm"])
    return model


def images() -> Tensor:
    return torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(2))


def batch_norms(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


def family(name: str) -> NormFamily:
    return type(NORMS[name])(num_groups=4) if name.endswith("GroupNorm") else NORMS[name]


def assert_same_state(ours: nn.Module, theirs: nn.Module) -> None:
    assert_close(dict(theirs.state_dict()), dict(ours.state_dict()), rtol=0, atol=0)


def test_there_and_back(ours: nn.Module, theirs: nn.Module) -> None:
    """A trained model keeps its weights, statistics and numbers with torch's norms, and comes back unchanged."""
    assert len(batch_norms(theirs)) == 20
    assert all(type(norm) is nn.BatchNorm2d for norm in batch_norms(theirs))
    assert any(norm.num_batches_tracked == 2 for norm in batch_norms(theirs))
    assert_same_state(theirs, ours)
    assert_close(theirs(images()), ours(images()))
    back = copy.deepcopy(theirs)
    swap_norms(back, NORMS["BatchNorm"])
    assert_same_state(back, ours)
    assert [type(m) for m in back.modules()] == [type(m) for m in ours.modules()]
    assert torch.equal(back(images()), ours(images()))


@DEPRECATED
def test_script(ours: nn.Module, theirs: nn.Module) -> None:
    assert_close(torch.jit.script(theirs)(images()), ours(images()))


def test_fuse(ours: nn.Module, theirs: nn.Module) -> None:
    fused = fuse(theirs)
    assert batch_norms(fused) == []
    assert_close(fused(images()), ours(images()), rtol=1e-4, atol=1e-5)


@DEPRECATED
def test_quantize(ours: nn.Module, theirs: nn.Module) -> None:
    """torch.ao's quantization folds the batch norms into integer convolutions."""
    engine = "x86" if "x86" in torch.backends.quantized.supported_engines else "qnnpack"
    before, torch.backends.quantized.engine = torch.backends.quantized.engine, engine
    try:
        prepared = prepare_fx(theirs, get_default_qconfig_mapping(engine), (images(),))
        prepared(images())
        quantized = convert_fx(prepared)
        assert batch_norms(quantized) == []
        logits, expected = quantized(images()), ours(images())
    finally:
        torch.backends.quantized.engine = before
    assert (logits - expected).norm() / expected.norm() < 0.1


@DEPRECATED
@pytest.mark.parametrize("channel_dim", [1, -1])
@pytest.mark.parametrize("kind", KINDS)
def test_script_of_each_kind(kind: str, channel_dim: int) -> None:
    """torch.jit.script takes torch's norms, except those on text that read a padding mask."""
    if channel_dim == -1 and kind in ("BatchNorm", "InstanceNorm"):
        pytest.skip("reads a padding mask, which torch.jit.script does not know: trace the model")
    model = nn.Sequential(family(kind)(8, channel_dim)).eval()
    x = torch.randn(2, 8, 5, 8, generator=torch.Generator().manual_seed(1))
    expected = model(x)
    swap_norms(model, family(f"Torch{kind}"))
    assert_close(torch.jit.script(model)(x), expected)
