"""Tokenizers trained on the training split, and pretrained tokenizers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from src.data import DataError
from src.data.files.tokenizer import train_tokenizer, trained_encode
from tests.helpers.standin_data import sentences

TEXTS = ["The cat sat on the mat", "the dog ate the cat's food", "a bird sang: the end"] * 5


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
    # A letter that the training texts lack becomes [UNK].
    assert tokenizer.token_to_id("[UNK]") in encode(["Ω"])[0]


def test_many_letters_stay_within_the_vocabulary() -> None:
    texts = ["".join(chr(0x4E00 + index) for index in range(500))]
    assert train_tokenizer(texts, 64).get_vocab_size() <= 64


def test_training_gives_the_same_tokenizer_each_time() -> None:
    texts = [text for _, text in sentences("abcdefgh", 50, seed=0)]
    assert len({train_tokenizer(texts, 300).to_str() for _ in range(4)}) == 1


@pytest.fixture
def pretrained(tmp_path: Path) -> Path:
    from transformers import PreTrainedTokenizerFast

    words = {word: index for index, word in enumerate(["the", "[UNK]", "last", "year", "[PAD]"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    folder = tmp_path / "pretrained"
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    return folder


def test_pretrained_tokenizer_brings_its_vocabulary(
    set_up_texts: Callable[..., Any], tmp_path: Path, pretrained: Path
) -> None:
    data = set_up_texts(tokenizer=str(pretrained), max_length=12)
    assert (data.vocab_size, data.pad_token_id) == (5, 4)
    inputs, _ = next(iter(data.train_dataloader()))
    assert inputs["input_ids"].shape[1] <= 12
    assert torch.equal(inputs["input_ids"] == 4, inputs["attention_mask"] == 0)
    assert not list((tmp_path / "cache").glob("tokenizer-*"))


def test_missing_pretrained_tokenizer(set_up_texts: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        set_up_texts(tokenizer=str(tmp_path / "nowhere"))
    message = str(error.value)
    assert message.startswith(f"tokenizer='{tmp_path}/nowhere' cannot be loaded (")
    assert message.endswith(
        "Expected a folder written by save_pretrained or, with network, a name on the Hugging Face hub. Set "
        "--data.tokenizer, or null to train one."
    )


def test_pretrained_tokenizer_without_padding(set_up_texts: Callable[..., Any], pretrained: Path) -> None:
    path = pretrained / "tokenizer_config.json"
    config = json.loads(path.read_text())
    del config["pad_token"]
    path.write_text(json.dumps(config))
    with pytest.raises(DataError) as error:
        set_up_texts(tokenizer=str(pretrained))
    assert str(error.value) == (
        f"tokenizer='{pretrained}' has no padding token, which batches need. Load it with AutoTokenizer, set its "
        "pad_token (often to its eos_token), save_pretrained it to a folder and pass that folder."
    )
