"""Tokenizers, padding, and what is cached of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from src.data import DataError, TextFiles, token_cache
from src.data.text import TokenDataset, pad
from src.data.tokens import train_tokenizer, trained_encode
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
    monkeypatch.setattr("src.data.text.trained_encode", lambda *arguments: refuse)
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
