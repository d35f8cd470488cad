"""After several steps in N processes, whole models have the weights of one process with the whole batch."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint
from torchvision.models.resnet import BasicBlock, ResNet
from transformers import BertConfig, BertForSequenceClassification

from src.models.image import set_width
from src.norms import NORMS, SyncBatchNorm, swap_norms
from tests.helpers.ranks import Ranks

NUM_SAMPLES, NUM_BATCHES = 24, 4  # the number of samples is divisible by 2, 3 and 4 ranks
Batch = tuple[dict[str, Tensor], Tensor]


class Images(nn.Module):
    """ResNet-18 of width 16."""

    # With 0.05, rounding errors change the sign of some inputs of ReLU: the error of torch's own float32 against its
    # float64 is then 0.5.
    learning_rate = 1e-3

    def __init__(self) -> None:
        super().__init__()
        self.resnet = ResNet(BasicBlock, [2, 2, 2, 2])
        set_width(self.resnet, "resnet18", 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.resnet(x)


class Texts(nn.Module):
    """BERT with two layers. The statistics of its norms leave padding out."""

    learning_rate = 0.1

    def __init__(self) -> None:
        super().__init__()
        sizes = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        config = BertConfig(**sizes, intermediate_size=64, max_position_embeddings=16, num_labels=5)
        config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
        self.bert = BertForSequenceClassification(config)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.bert(input_ids=input_ids, attention_mask=attention_mask).logits


def batches(kind: type[Images | Texts], dtype: torch.dtype) -> list[Batch]:
    """The whole batch of each step."""
    generator = torch.Generator().manual_seed(1)
    found = []
    for _ in range(NUM_BATCHES):
        labels = torch.randint(5, (NUM_SAMPLES,), generator=generator)
        if kind is Images:
            inputs = {"x": torch.randn(NUM_SAMPLES, 3, 16, 16, generator=generator, dtype=torch.float64).to(dtype)}
        else:
            lengths = torch.randint(2, 12, (NUM_SAMPLES, 1), generator=generator)
            mask = (torch.arange(12) < lengths).long()
            inputs = {"input_ids": torch.randint(40, (NUM_SAMPLES, 12), generator=generator), "attention_mask": mask}
        found.append((inputs, labels))
    return found


def build(kind: type[Images | Texts], norm: str, dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    model = kind()
    swap_norms(model, NORMS[norm])
    return model.to(dtype)


def train(model: nn.Module, data: list[Batch], learning_rate: float, batches_per_step: int = 1) -> dict[str, Tensor]:
    """The weights and running statistics after training on all batches."""
    optimizer = torch.optim.SGD(model.parameters(), learning_rate, momentum=0.9)
    for index, (inputs, labels) in enumerate(data):
        is_last = (index + 1) % batches_per_step == 0
        alone = contextlib.nullcontext() if is_last or not hasattr(model, "no_sync") else model.no_sync()
        with alone:
            nn.functional.cross_entropy(model(**inputs), labels).backward()
        if is_last:
            optimizer.step()
            optimizer.zero_grad()
    return {name.removeprefix("module."): value for name, value in model.state_dict().items()}


VARIATIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "find_unused_parameters": {"find_unused_parameters": True},
    "static_graph": {"static_graph": True},
    "no_sync": {},
    "checkpointing": {},
    "compile": {},
}


def train_share(
    kind: type[Images | Texts], dtype: torch.dtype, variation: str, device: str = "cpu"
) -> dict[str, Tensor]:
    """The weights and running statistics of one rank after training on its share of each batch."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    model = build(kind, "BatchNorm", dtype).to(device)
    SyncBatchNorm.convert_sync_batchnorm(model)
    if variation == "find_unused_parameters":
        model.unused = nn.Linear(1, 1, device=device)
    if variation == "checkpointing":
        recompute_blocks(model)
    if variation == "compile":
        model.compile(backend="aot_eager")
    shares = [
        (
            {name: value.chunk(world_size)[rank].to(device) for name, value in inputs.items()},
            labels.chunk(world_size)[rank].to(device),
        )
        for inputs, labels in batches(kind, dtype)
    ]
    parallel = DistributedDataParallel(model, **VARIATIONS[variation])
    state = train(parallel, shares, kind.learning_rate, 2 if variation == "no_sync" else 1)
    return {name: value.cpu() for name, value in state.items() if not name.startswith("unused")}


def recompute_blocks(model: nn.Module) -> None:
    """Keep only the inputs of a ResNet's blocks; the backward pass computes the blocks again."""
    for block in model.modules():
        if isinstance(block, BasicBlock):
            forward = block.forward
            block.forward = lambda x, forward=forward: checkpoint(forward, x, use_reentrant=False)


def assert_one_process(found: list[dict[str, Tensor]], expected: dict[str, Tensor], relative: float) -> None:
    """Assert that all ranks have the same bits, and that each tensor is within `relative` of `expected`."""
    for state in found:
        assert state.keys() == expected.keys()
        for name, value in expected.items():
            assert torch.equal(state[name], found[0][name]), f"{name} differs between the ranks"
            error = (state[name].double() - value.double()).norm() / value.double().norm().clamp(min=1)
            assert error <= relative, f"{name}: relative error {error:.1e}, expected at most {relative:.0e}"


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    with Ranks(4) as running:
        yield running


@pytest.mark.parametrize("world_size", [2, 3, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", [Images, Texts])
def test_weights_after_several_steps(ranks: Ranks, kind: type[Images | Texts], world_size: int) -> None:
    expected = train(build(kind, "TorchBatchNorm", torch.float64), batches(kind, torch.float64), kind.learning_rate)
    for dtype, relative in (torch.float64, 1e-10), (torch.float32, 1e-5):
        assert_one_process(ranks(world_size, train_share, kind, dtype, "plain"), expected, relative)


SLOW = {"compile": pytest.mark.slow}


@pytest.mark.parametrize(
    "variation", [pytest.param(name, marks=SLOW.get(name, ())) for name in VARIATIONS if name != "plain"]
)
def test_ways_of_training(ranks: Ranks, variation: str) -> None:
    found = ranks(2, train_share, Images, torch.float64, variation)
    model, data = build(Images, "TorchBatchNorm", torch.float64), batches(Images, torch.float64)
    expected = train(model, data, Images.learning_rate, 2 if variation == "no_sync" else 1)
    assert_one_process(found, expected, 1e-10)
