"""The token cache: reuse, changed texts, and interrupted writes."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from src.data.files import token_cache
from tests.helpers.standin_data import make_text_file


def test_tokenizer_sees_the_training_split_only(set_up_texts: Callable[..., Any], tmp_path: Path) -> None:
    train = make_text_file(tmp_path / "a.csv")
    test = tmp_path / "test.csv"
    test.write_text("text,label\n" + "zyzzyva zyzzyva,ham\n" * 50)
    set_up_texts(train=str(train), test=str(test))
    (path,) = (tmp_path / "cache").glob("tokenizer-*.json")
    assert "zy" not in "".join(json.loads(path.read_text())["model"]["vocab"])


def test_second_setup_neither_trains_nor_encodes(
    set_up_texts: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = set_up_texts()

    def refuse(*arguments: Any) -> None:
        raise AssertionError("the cache was not used")

    monkeypatch.setattr(token_cache, "train_tokenizer", refuse)
    monkeypatch.setattr("src.data.texts.trained_encode", lambda *arguments: refuse)
    again = set_up_texts()
    for split in ("train", "val", "test"):
        np.testing.assert_array_equal(first.datasets[split].ids, again.datasets[split].ids)
    with pytest.raises(AssertionError, match="the cache was not used"):
        set_up_texts(max_length=9)


def test_changed_text_is_encoded_anew(set_up_texts: Callable[..., Any], tmp_path: Path) -> None:
    set_up_texts()
    path = make_text_file(tmp_path / "other.csv")
    path.write_text(path.read_text().replace("market", "bazaar"))
    before = len(list((tmp_path / "cache").iterdir()))
    set_up_texts(train=str(path))
    assert len(list((tmp_path / "cache").iterdir())) > before


def test_interrupted_write_leaves_nothing(
    set_up_texts: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(path: Path, array: np.ndarray) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(token_cache.np, "save", interrupt)
    with pytest.raises(KeyboardInterrupt):
        set_up_texts()
    assert [path.name.split("-")[0] for path in (tmp_path / "cache").iterdir()] == ["tokenizer"]


@pytest.mark.parametrize(("given", "seen"), [(None, "true"), ("false", "false")])
def test_encoding_is_parallel_unless_told_not_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str | None, seen: str
) -> None:
    # The variable is set and then deleted, so that monkeypatch restores it after the test.
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", given or "")
    if given is None:
        monkeypatch.delenv("TOKENIZERS_PARALLELISM")
    parallelism = []

    def encode(texts: Sequence[str]) -> list[list[int]]:
        parallelism.append(os.environ["TOKENIZERS_PARALLELISM"])
        return [[1] for _ in texts]

    token_cache.cached_tokens(["text"], encode, "", tmp_path)
    assert parallelism == [seen]
