"""Tokenizers, padding, and what is cached of them."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from src.data import DataError, TextFiles
from src.data.files import token_cache
from src.data.files.tokenizer import train_tokenizer, trained_encode
from src.data.texts import TokenDataset, drop_tokens, pad
from tests.standins import make_text_file, sentences

TEXTS = ["The cat sat on the mat", "the dog ate the cat's food", "a bird sang: the end"] * 5


def set_up(tmp_path: Path, **changes: Any) -> Any:
    arguments: dict[str, Any] = {
        "train": str(make_text_file(tmp_path / "train.csv")),
        "root": str(tmp_path),
        "vocab_size": 256,
    }
    data = TextFiles(**(arguments | changes))
    data.prepare_data()
    data.setup("fit")
    return data


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
        # 10 of 20 tokens and 4 of 7 stay, and both special ones.
        assert mask.sum(1).tolist() == [12, 6, 2]
        assert ids.shape == mask.shape == (3, 12)
        assert torch.equal(ids == 0, mask == 0)
        for row, length, text in zip(ids.tolist(), (12, 6, 2), texts, strict=True):
            assert row[:length] == sorted(set(row[:length]), key=text.index)
            assert (row[0], row[length - 1]) == (1, 2)
    # Each token has its turn.
    assert {index for batch in seen for index in batch["input_ids"][0].tolist()} == set(texts[0])
    assert len({tuple(batch["input_ids"][0].tolist()) for batch in seen}) > 40


def test_no_dropped_tokens_change_nothing() -> None:
    inputs = pad([np.array([1, 5, 6, 2]), np.array([1, 7, 2])], pad_token_id=0)
    unchanged = drop_tokens(inputs, 0.0, torch.tensor([1, 2]), 0)
    assert all(torch.equal(unchanged[name], inputs[name]) for name in inputs)


def test_trained_tokenizer_lowercases_marks_both_ends_and_cuts() -> None:
    tokenizer = train_tokenizer(TEXTS, 128)
    encode = trained_encode(tokenizer, max_length=6)
    lower, upper = encode(["the cat", "THE CAT"])
    assert lower == upper
    assert [tokenizer.id_to_token(index) for index in lower] == ["[CLS]", "the", "cat", "[SEP]"]
    assert tokenizer.token_to_id("[PAD]") == 0
    (long,) = encode(["the cat sat on the mat and sat and sat"])
    assert len(long) == 6
    assert tokenizer.id_to_token(long[-1]) == "[SEP]"
    # Letters that the training texts lack are known to be unknown.
    assert tokenizer.token_to_id("[UNK]") in encode(["Ω"])[0]


def test_many_letters_stay_within_the_vocabulary() -> None:
    texts = ["".join(chr(0x4E00 + index) for index in range(500))]
    assert train_tokenizer(texts, 64).get_vocab_size() <= 64


def test_training_gives_the_same_tokenizer_each_time() -> None:
    texts = [text for _, text in sentences("abcdefgh", 50, seed=0)]
    assert len({train_tokenizer(texts, 300).to_str() for _ in range(4)}) == 1


def test_tokenizer_sees_the_training_split_only(tmp_path: Path) -> None:
    train = make_text_file(tmp_path / "a.csv")
    test = tmp_path / "test.csv"
    test.write_text("text,label\n" + "zyzzyva zyzzyva,ham\n" * 50)
    set_up(tmp_path, train=str(train), test=str(test))
    (path,) = (tmp_path / "cache").glob("tokenizer-*.json")
    assert "zy" not in "".join(json.loads(path.read_text())["model"]["vocab"])


def test_second_setup_neither_trains_nor_encodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = set_up(tmp_path)

    def refuse(*arguments: Any) -> None:
        raise AssertionError("the cache was not used")

    monkeypatch.setattr(token_cache, "train_tokenizer", refuse)
    monkeypatch.setattr("src.data.texts.trained_encode", lambda *arguments: refuse)
    again = set_up(tmp_path)
    for split in ("train", "val", "test"):
        np.testing.assert_array_equal(first.datasets[split].ids, again.datasets[split].ids)
    with pytest.raises(AssertionError, match="the cache was not used"):
        set_up(tmp_path, max_length=9)


def test_changed_text_is_encoded_anew(tmp_path: Path) -> None:
    set_up(tmp_path)
    path = make_text_file(tmp_path / "other.csv")
    path.write_text(path.read_text().replace("market", "bazaar"))
    before = len(list((tmp_path / "cache").iterdir()))
    set_up(tmp_path, train=str(path))
    assert len(list((tmp_path / "cache").iterdir())) > before


def test_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(path: Path, array: np.ndarray) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(token_cache.np, "save", interrupt)
    with pytest.raises(KeyboardInterrupt):
        set_up(tmp_path)
    assert [path.name.split("-")[0] for path in (tmp_path / "cache").iterdir()] == ["tokenizer"]


@pytest.mark.parametrize(("given", "seen"), [(None, "true"), ("false", "false")])
def test_encoding_is_parallel_unless_told_not_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str | None, seen: str
) -> None:
    # Set and deleted, so that the end of the test takes back what is set within it.
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", given or "")
    if given is None:
        monkeypatch.delenv("TOKENIZERS_PARALLELISM")
    parallelism = []

    def encode(texts: Sequence[str]) -> list[list[int]]:
        parallelism.append(os.environ["TOKENIZERS_PARALLELISM"])
        return [[1] for _ in texts]

    token_cache.cached_tokens(["text"], encode, "", tmp_path)
    assert parallelism == [seen]


@pytest.fixture
def pretrained(tmp_path: Path) -> Path:
    from transformers import PreTrainedTokenizerFast

    words = {word: index for index, word in enumerate(["the", "[UNK]", "last", "year", "[PAD]"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    folder = tmp_path / "pretrained"
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    return folder


def test_pretrained_tokenizer_brings_its_vocabulary(tmp_path: Path, pretrained: Path) -> None:
    data = set_up(tmp_path, tokenizer=str(pretrained), max_length=12)
    assert (data.vocab_size, data.pad_token_id) == (5, 4)
    inputs, _ = next(iter(data.train_dataloader()))
    assert inputs["input_ids"].shape[1] <= 12
    assert torch.equal(inputs["input_ids"] == 4, inputs["attention_mask"] == 0)
    assert not list((tmp_path / "cache").glob("tokenizer-*"))


def test_missing_pretrained_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        set_up(tmp_path, tokenizer=str(tmp_path / "nowhere"))
    message = str(error.value)
    assert message.startswith(f"tokenizer='{tmp_path}/nowhere' cannot be loaded (")
    assert message.endswith(
        "Expected a folder written by save_pretrained or, with network, a name on the Hugging Face hub. Set "
        "--data.tokenizer, or null to train one."
    )


def test_pretrained_tokenizer_without_padding(tmp_path: Path, pretrained: Path) -> None:
    path = pretrained / "tokenizer_config.json"
    config = json.loads(path.read_text())
    del config["pad_token"]
    path.write_text(json.dumps(config))
    with pytest.raises(DataError) as error:
        set_up(tmp_path, tokenizer=str(pretrained))
    assert str(error.value) == (
        f"tokenizer='{pretrained}' has no padding token, which batches need. Load it with AutoTokenizer, set its "
        "pad_token (often to its eos_token), save_pretrained it to a folder and pass that folder."
    )


def test_vocabulary_or_length_too_small(tmp_path: Path) -> None:
    for name, value, least in (("vocab_size", 15, 16), ("max_length", 2, 3)):
        with pytest.raises(DataError) as error:
            set_up(tmp_path, **{name: value})
        assert str(error.value) == f"{name}={value}: expected {least} or more. Set --data.{name}."


def test_without_bucketing_texts_come_whatever_their_lengths(tmp_path: Path) -> None:
    def orders(**changes: Any) -> list[list[int]]:
        data = set_up(tmp_path, batch_size=4, val_fraction=0.5, **changes)
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
def test_token_dropout_is_a_share(tmp_path: Path, share: float) -> None:
    with pytest.raises(DataError) as error:
        set_up(tmp_path, token_dropout=share)
    assert str(error.value) == (
        f"token_dropout={share}: expected 0 or more and less than 1, the share of a text's tokens that training leaves "
        "out. Set --data.token_dropout."
    )


def test_checkpoint_of_another_tokenizer(tmp_path: Path) -> None:
    state = set_up(tmp_path).state_dict()
    set_up(tmp_path).load_state_dict(state)
    with pytest.raises(DataError) as error:
        set_up(tmp_path, vocab_size=64).load_state_dict(state)
    assert str(error.value) == (
        "The checkpoint was trained with another tokenizer, so its ids mean other tokens. A trained tokenizer follows "
        "from the training split and --data.vocab_size: give the training file, --data.split_seed, --data.vocab_size "
        "and --data.tokenizer of the training run."
    )
