"""Tokenizing once: the trained tokenizer and the ids go to files named after what they were made from."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tokenizers

from src.data.files.atomic_write import publish, scratch_folder
from src.data.files.tokenizer import Encode, train_tokenizer

# Texts encoded at a time: enough to keep all cores busy, few enough to bound the memory.
CHUNK = 2048


def identity(settings: str, texts: Sequence[str]) -> str:
    """A hash of the settings and of every text."""
    result = hashlib.sha256(settings.encode())
    for text in texts:
        content = text.encode()
        # With its length before it no text can run into the next.
        result.update(len(content).to_bytes(8, "big") + content)
    return result.hexdigest()[:16]


def cached_tokenizer(texts: Sequence[str], vocab_size: int, cache: Path) -> tokenizers.Tokenizer:
    """The tokenizer of `train_tokenizer`; trains it if no run has yet."""
    destination = cache / f"tokenizer-{identity(f'bpe {vocab_size}', texts)}.json"
    if not destination.exists():
        with scratch_folder(cache) as scratch:
            train_tokenizer(texts, vocab_size).save(str(scratch / destination.name))
            publish(scratch / destination.name, destination)
    return tokenizers.Tokenizer.from_file(str(destination))


def cached_tokens(texts: Sequence[str], encode: Encode, settings: str, cache: Path) -> tuple[np.ndarray, np.ndarray]:
    """All ids in one row, (T,) int32, and where each text begins in it, (N + 1,) int64; memory-mapped.

    Args:
        texts: N texts.
        encode: makes lists of ids of them, if no run has yet.
        settings: what else the ids depend on.
        cache: the folder for the files.
    """
    destination = cache / f"tokens-{identity(settings, texts)}"
    if not destination.exists():
        # Loader processes are forked after this and tokenizers warns of it unless told; they only read the ids.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
        ids = [row for start in range(0, len(texts), CHUNK) for row in encode(texts[start : start + CHUNK])]
        with scratch_folder(cache) as scratch:
            unfinished = scratch / destination.name
            unfinished.mkdir()
            np.save(unfinished / "ids.npy", np.concatenate([np.array(row, dtype=np.int32) for row in ids]))
            np.save(unfinished / "offsets.npy", np.cumsum([0, *map(len, ids)], dtype=np.int64))
            publish(unfinished, destination)
    ids_file, offsets_file = destination / "ids.npy", destination / "offsets.npy"
    return np.load(ids_file, mmap_mode="r"), np.load(offsets_file)
