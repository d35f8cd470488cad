"""Batches of texts: padding, token dropout, bucketing, and checkpoints of another tokenizer."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from src.data import DataError
from src.data.texts import TokenDataset, drop_tokens, pad


def test_padding_by_hand() -> None:
    batch = pad([np.array([5, 6, 7]), np.array([8])], pad_token_id=9)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 9, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert {values.dtype for values in batch.values()} == {torch.int64}


def test_batch_takes_the_texts_that_it_is_asked_for() -> None:
    dataset = TokenDataset(np.array([1, 2, 3, 4, 5, 6]), np.array([0, 2, 2, 6]), np.array([7, 8, 9]), pad_token_id=0)
    inputs, labels = dataset[[2, 0, 1]]
    assert inputs["input_ids"].tolist() == [[3, 4, 5, 6], [1, 2, 0, 0], [0, 0, 0, 0]]
    assert labels.tolist() == [9, 7, 8]


def test_dropped_tokens_leave_the_rest_in_order() -> None:
    special = torch.tensor([1, 2])
    texts = [[1, *range(10, 30), 2], [1, *range(30, 37), 2], [1, 2]]
    inputs = pad([np.array(text) for text in texts], pad_token_id=0)
    torch.manual_seed(0)
    seen = [drop_tokens(inputs, 0.5, special, 0) for _ in range(50)]
    for batch in seen:
        ids, mask = batch["input_ids"], batch["attention_mask"]
        # Of 20 tokens, 10 stay; of 7 tokens, 4 stay; both special tokens always stay.
        assert mask.sum(1).tolist() == [12, 6, 2]
        assert ids.shape == mask.shape == (3, 12)
        assert torch.equal(ids == 0, mask == 0)
        for row, length, text in zip(ids.tolist(), (12, 6, 2), texts, strict=True):
            assert row[:length] == sorted(set(row[:length]), key=text.index)
            assert (row[0], row[length - 1]) == (1, 2)
    # Each token stays in at least one of the 50 batches.
    assert {index for batch in seen for index in batch["input_ids"][0].tolist()} == set(texts[0])
    assert len({tuple(batch["input_ids"][0].tolist()) for batch in seen}) > 40


def test_no_dropped_tokens_change_nothing() -> None:
    inputs = pad([np.array([1, 5, 6, 2]), np.array([1, 7, 2])], pad_token_id=0)
    unchanged = drop_tokens(inputs, 0.0, torch.tensor([1, 2]), 0)
    assert all(torch.equal(unchanged[name], inputs[name]) for name in inputs)


def test_vocabulary_or_length_too_small(set_up_texts: Callable[..., Any]) -> None:
    for name, value, least in (("vocab_size", 15, 16), ("max_length", 2, 3)):
        with pytest.raises(DataError) as error:
            set_up_texts(**{name: value})
        assert str(error.value) == f"{name}={value}: expected {least} or more. Set --data.{name}."


def test_without_bucketing_texts_come_whatever_their_lengths(set_up_texts: Callable[..., Any]) -> None:
    def orders(**changes: Any) -> list[list[int]]:
        data = set_up_texts(batch_size=4, val_fraction=0.5, **changes)
        return [
            [row for batch in loader.sampler for row in batch]
            for loader in (data.train_dataloader(), data.val_dataloader())
        ]

    train, val = orders(bucketing=False)
    bucketed_train, bucketed_val = orders()
    assert val == list(range(len(val))) == sorted(bucketed_val) != bucketed_val
    assert train != sorted(train)
    assert train != bucketed_train


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_token_dropout_is_a_share(set_up_texts: Callable[..., Any], share: float) -> None:
    with pytest.raises(DataError) as error:
        set_up_texts(token_dropout=share)
    assert str(error.value) == (
        f"token_dropout={share}: expected 0 or more and less than 1, the share of a text's tokens that training leaves "
        "out. Set --data.token_dropout."
    )


def test_checkpoint_of_another_tokenizer(set_up_texts: Callable[..., Any]) -> None:
    state = set_up_texts().state_dict()
    set_up_texts().load_state_dict(state)
    with pytest.raises(DataError) as error:
        set_up_texts(vocab_size=64).load_state_dict(state)
    assert str(error.value) == (
        "The checkpoint was trained with another tokenizer, so its ids mean other tokens. A trained tokenizer follows "
        "from the training split and --data.vocab_size: give the training file, --data.split_seed, --data.vocab_size "
        "and --data.tokenizer of the training run."
    )
