"""The tests of synchronized norms in two processes, repeated on a GPU."""

from collections.abc import Iterator

import pytest
import torch

from tests.helpers.ranks import Ranks
from tests.norms.test_sync_batch_norm import PARTS, assert_half_precision, assert_ranks_are_one_process
from tests.norms.test_sync_training import (
    VARIATIONS,
    Images,
    Texts,
    assert_one_process,
    batches,
    build,
    train,
    train_share,
)

pytestmark = pytest.mark.gpu
BACKENDS = [
    pytest.param("gloo", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")),
    pytest.param(
        "nccl",
        marks=pytest.mark.skipif(
            torch.cuda.device_count() < 2, reason="NCCL takes a CUDA device a process, and torch finds less than two"
        ),
    ),
]


@pytest.fixture(scope="module", params=BACKENDS)
def ranks(request: pytest.FixtureRequest) -> Iterator[Ranks]:
    with Ranks(2, request.param) as running:
        yield running


@pytest.mark.parametrize("kind", PARTS)
def test_ranks_are_one_process(ranks: Ranks, kind: str) -> None:
    several, one, none, _ = PARTS[kind]
    for other in one, none:
        assert_ranks_are_one_process(ranks, [several, other], "cuda")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(ranks: Ranks, dtype: torch.dtype) -> None:
    assert_half_precision(ranks, PARTS["maps"][:2], dtype, torch.float32, "cuda")


@pytest.mark.parametrize("variation", VARIATIONS)
@pytest.mark.parametrize("kind", [Images, Texts])
def test_weights_after_several_steps(ranks: Ranks, kind: type[Images | Texts], variation: str) -> None:
    found = ranks(2, train_share, kind, torch.float64, variation, "cuda")
    model, data = build(kind, "TorchBatchNorm", torch.float64), batches(kind, torch.float64)
    expected = train(model, data, kind.learning_rate, 2 if variation == "no_sync" else 1)
    assert_one_process(found, expected, 1e-10)
