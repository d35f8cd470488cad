"""Models that hand their tokens on in other shapes and orders: padding does not count, or the swap refuses them."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.testing import assert_close
from transformers import AutoConfig, AutoModelForSequenceClassification

from src.norms import NORMS, swap_norms
from src.norms import families as family
from tests.helpers.errors import error_is
from tests.norms.test_padding import batch, small_bert


def small(backbone: str, **sizes: int) -> nn.Module:
    torch.manual_seed(0)
    config = AutoConfig.for_model(backbone, vocab_size=40, pad_token_id=0, **sizes)
    return AutoModelForSequenceClassification.from_config(config).double()


def small_opt() -> nn.Module:
    sizes = {"hidden_size": 64, "word_embed_proj_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    return small("opt", **sizes, ffn_dim=64, max_position_embeddings=40, dropout=0)


@pytest.mark.parametrize("name", ["BatchNorm", "TorchBatchNorm"])
def test_a_model_that_flattens_its_tokens(name: str) -> None:
    """OPT gives (B * T, D) to the last norm of a block."""
    model = small_opt()
    swap_norms(model, NORMS[name])
    ids, mask = batch()
    further = copy.deepcopy(model)
    outputs = [model(ids, attention_mask=mask).logits, further(pad(ids, (0, 12)), pad(mask, (0, 12))).logits]
    assert_close(outputs[1], outputs[0])
    assert_close(further.state_dict(), model.state_dict())


def test_models_in_which_padding_would_count_are_refused() -> None:
    """The model keeps its norms, its hooks and its state."""
    xlnet = small("xlnet", d_model=64, n_layer=1, n_head=4, d_inner=64)
    before, hooks = list(xlnet.named_modules()), len(xlnet._forward_pre_hooks)
    with error_is(
        ValueError,
        "InstanceNorm does not fit XLNetForSequenceClassification: a padding mask of shape (3, 7) does not fit an "
        "input of shape (7, 3, 64): expected (B, T) and (B, T, ...). Take a norm of one position, such as LayerNorm",
    ):
        swap_norms(xlnet, NORMS["InstanceNorm"])
    assert list(xlnet.named_modules()) == before
    assert len(xlnet._forward_pre_hooks) == hooks
    swap_norms(xlnet, family.BatchNorm(masked=False))
    fnet = small("fnet", hidden_size=64, num_hidden_layers=1, intermediate_size=64)
    refused = r"^BatchNorm does not fit FNet\w+: padding counts in its statistics: .* or masked=false to count padding$"
    with pytest.raises(ValueError, match=refused):
        swap_norms(fnet, NORMS["BatchNorm"])


def test_the_probe_changes_nothing() -> None:
    model = small_bert().train()
    model.bert.pooler.eval()
    swap_norms(model, NORMS["BatchNorm"])
    state = torch.get_rng_state()
    before, flags = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    swap_norms(model, NORMS["TorchBatchNorm"])
    assert torch.equal(torch.get_rng_state(), state)
    assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert [m.training for m in model.modules()] == flags


class ChannelsFirst(nn.Module):
    """A model whose norm gets the tokens in an order that only the numbers show."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.head = nn.Embedding(16, 8), nn.LayerNorm(8), nn.Linear(8, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.embed(input_ids)
        x = self.norm(x.transpose(0, 1).reshape(x.shape)).reshape(x.shape[1], x.shape[0], -1).transpose(0, 1)
        return self.head(x[:, 0])


class WithPixels(nn.Module):
    """A model that two forward passes of tokens cannot try."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)

    def forward(self, input_ids: Tensor, pixels: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return self.norm(pixels)


def test_a_model_that_cannot_be_tried_is_accepted() -> None:
    model = WithPixels()
    assert list(swap_norms(model, NORMS["InstanceNorm"])) == ["norm"]
    with error_is(
        ValueError,
        "a padding mask of shape (2, 5) does not fit an input of shape (2, 6, 8): expected (B, T) and (B, T, ...)",
    ):
        model(torch.zeros(2, 5), torch.zeros(2, 6, 8), attention_mask=torch.ones(2, 5))


def test_the_probe_finds_an_order_that_no_shape_shows() -> None:
    with pytest.raises(ValueError, match="padding counts in its statistics"):
        swap_norms(ChannelsFirst(), NORMS["BatchNorm"])


@pytest.mark.parametrize("batch_first", [True, False])
def test_torchs_encoder_leaves_padding_out(batch_first: bool) -> None:
    """Its masks are True, or -inf, at padding; without batch_first it gives (T, B, D) to its norms."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=batch_first)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    swap_norms(model, NORMS["BatchNorm"])
    further = copy.deepcopy(model)
    x, padding = torch.randn(2, 4, 8), torch.tensor([[False] * 4, [False, False, True, True]])
    longer, longer_padding = pad(x, (0, 0, 0, 3), value=5.0), pad(padding, (0, 3), value=True)

    def run(model: nn.Module, x: Tensor, padding: Tensor) -> Tensor:
        y = model(x if batch_first else x.transpose(0, 1), src_key_padding_mask=padding)
        return y if batch_first else y.transpose(0, 1)

    assert_close(run(further, longer, longer_padding)[:, :4][~padding], run(model, x, padding)[~padding])
    assert_close(further.state_dict(), model.state_dict())
    as_float = torch.zeros(padding.shape).masked_fill(padding, float("-inf"))
    assert_close(run(model, x, as_float)[~padding], run(further, x, padding)[~padding])


def test_torchs_decoder_leaves_padding_out() -> None:
    torch.manual_seed(0)
    model = nn.TransformerDecoder(nn.TransformerDecoderLayer(8, 2, 16, dropout=0.0, batch_first=True), 2)
    swap_norms(model, NORMS["InstanceNorm"])
    x, memory = torch.randn(2, 4, 8), torch.randn(2, 3, 8)
    padding = torch.tensor([[False] * 4, [False, False, True, True]])
    y = model(x, memory, tgt_key_padding_mask=padding)
    longer = model(pad(x, (0, 0, 0, 3)), memory, tgt_key_padding_mask=pad(padding, (0, 3), value=True))
    assert_close(longer[:, :4][~padding], y[~padding])


@pytest.mark.parametrize("name", ["InstanceNorm", "TorchInstanceNorm"])
def test_norms_of_a_sample_need_the_batch_first(name: str) -> None:
    model = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16))
    before = list(model.named_modules())
    with error_is(
        ValueError,
        f"{name} does not fit layer '0.norm1', whose input is (T, B, D), since the attention beside it has "
        "batch_first=False: build the model with batch_first=True, or take a norm of one position, such as LayerNorm",
    ):
        swap_norms(model, NORMS[name])
    assert list(model.named_modules()) == before
