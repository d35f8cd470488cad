"""The statistics of norms leave padding out, unless the norm has `masked=False`."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import BertConfig, BertForSequenceClassification

from src.norms import NORMS, NormFamily, swap_norms
from src.norms import families as family
from src.norms.padding import padding_mask
from tests.helpers.errors import error_is


def small_bert() -> nn.Module:
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 64, "max_position_embeddings": 32}
    config = BertConfig(**sizes, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    return BertForSequenceClassification(config).double()


def batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    ids, mask = torch.randint(1, 40, (4, 9)), torch.ones(4, 9, dtype=torch.int64)
    for row, length in enumerate((9, 5, 2, 7)):
        ids[row, length:], mask[row, length:] = 0, 0
    return ids, mask


def train_step(model: nn.Module, ids: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor], list[Tensor]]:
    logits = model(input_ids=ids, attention_mask=mask).logits
    gradients = torch.autograd.grad(logits.square().sum(), [p for p in model.parameters() if p.requires_grad])
    return logits, model.state_dict(), list(gradients)


@pytest.mark.parametrize("name", NORMS)
def test_padding_further_changes_nothing(name: str) -> None:
    """More padding changes no output, running statistic or gradient."""
    model = small_bert()
    swap_norms(model, NORMS[name])
    ids, mask = batch()
    further = copy.deepcopy(model)
    torch.testing.assert_close(
        train_step(further, pad(ids, (0, 8), value=7), pad(mask, (0, 8))), train_step(model, ids, mask)
    )
    model.eval(), further.eval()
    torch.testing.assert_close(
        further(pad(ids, (0, 8)), pad(mask, (0, 8))).logits, model(ids, attention_mask=mask).logits
    )


@pytest.mark.parametrize("name", ["BatchNorm", "TorchBatchNorm"])
def test_running_statistics_are_of_the_tokens_alone(name: str) -> None:
    model = small_bert()
    seen: list[Tensor] = []
    swap_norms(model, NORMS[name])
    norm = model.bert.embeddings.LayerNorm
    norm.register_forward_pre_hook(lambda layer, args: seen.append(args[0]))
    ids, mask = batch()
    model(input_ids=ids, attention_mask=mask)
    tokens = seen[0][mask.bool()]
    torch.testing.assert_close(norm.running_mean, 0.1 * tokens.mean(0))
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * tokens.var(0))


@pytest.mark.parametrize("norm", [family.BatchNorm(masked=False), family.TorchBatchNorm(masked=False)], ids=str)
def test_an_unmasked_norm_counts_padding(norm: NormFamily) -> None:
    model = small_bert()
    seen: list[Tensor] = []
    swap_norms(model, norm)
    layer = model.bert.embeddings.LayerNorm
    layer.register_forward_pre_hook(lambda layer, args: seen.append(args[0]))
    ids, mask = batch()
    logits = model(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(layer.running_mean, 0.1 * seen[0].mean((0, 1)))
    further = model(input_ids=pad(ids, (0, 8)), attention_mask=pad(mask, (0, 8))).logits
    assert (further - logits).abs().max() > 1e-3


def test_masked_again_by_a_swap() -> None:
    model = small_bert()
    swap_norms(model, family.BatchNorm(masked=False))
    layer = model.bert.embeddings.LayerNorm
    swap_norms(model, family.TorchBatchNorm())
    assert not model.bert.embeddings.LayerNorm.masked  # as in the replaced layer
    swap_norms(model, family.BatchNorm(masked=True))
    assert model.bert.embeddings.LayerNorm.masked
    assert not layer.masked
    assert model.bert.embeddings.LayerNorm.state_dict().keys() == layer.state_dict().keys()


@pytest.mark.parametrize("name", ["BatchNorm", "InstanceNorm"])
def test_garbage_in_padding_stays_there(name: str) -> None:
    """NaN in padding does not change the outputs of tokens."""
    layer = NORMS[name](8, channel_dim=-1)
    x = torch.randn(2, 5, 8)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]).bool()
    with padding_mask(mask):
        clean = layer(x)[mask]
        x[~mask] = torch.nan
        torch.testing.assert_close(layer(x)[mask], clean)


@pytest.mark.parametrize("name", ["BatchNorm", "InstanceNorm"])
def test_ours_and_torchs_agree_under_a_mask(name: str) -> None:
    ids, mask = batch()
    ours, theirs = small_bert(), small_bert()
    swap_norms(ours, NORMS[name])
    swap_norms(theirs, NORMS[f"Torch{name}"])
    torch.testing.assert_close(train_step(ours, ids, mask), train_step(theirs, ids, mask))


def test_a_call_without_a_mask_forgets_the_last_one() -> None:
    model = small_bert().eval()
    swap_norms(model, NORMS["InstanceNorm"])
    ids, mask = batch()
    whole = model(input_ids=ids).logits
    model(input_ids=ids, attention_mask=mask)
    torch.testing.assert_close(model(input_ids=ids).logits, whole)


def test_a_mask_of_another_shape_is_refused() -> None:
    model = small_bert()
    swap_norms(model, NORMS["BatchNorm"])
    ids, _ = batch()
    with error_is(
        ValueError,
        "attention_mask has shape (4, 1, 9, 9); norms that take statistics over positions need (B, T), 1 at a token "
        "and 0 at padding",
    ):
        model(input_ids=ids, attention_mask=torch.ones(4, 1, 9, 9))
    layer = NORMS["BatchNorm"](8, channel_dim=-1)
    with (
        padding_mask(torch.ones(4, 9).bool()),
        error_is(
            ValueError,
            "a padding mask of shape (4, 9) does not fit an input of shape (4, 2, 9, 8): "
            "expected (B, T) and (B, T, ...)",
        ),
    ):
        layer(torch.randn(4, 2, 9, 8))
