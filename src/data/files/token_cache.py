"""The token cache: tokenizers and token ids in files that are named by a hash of what they are made of."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tokenizers

from src.data.files.atomic_write import publish, scratch_folder
from src.data.files.tokenizer import Encode, train_tokenizer

# Texts encoded at a time: enough to keep all cores busy, and few enough to bound the memory.
CHUNK = 2048


def identity(settings: str, texts: Sequence[str]) -> str:
    """A hash of the settings and of every text."""
    result = hashlib.sha256(settings.encode())
    for text in texts:
        content = text.encode()
        # The length first, so that moving a word from one text to the next changes the hash.
        result.update(len(content).to_bytes(8, "big") + content)
    return result.hexdigest()[:16]


def cached_tokenizer(texts: Sequence[str], vocab_size: int, cache: Path) -> tokenizers.Tokenizer:
    """The tokenizer of `train_tokenizer`; trains it unless it is in `cache`."""
    destination = cache / f"tokenizer-{identity(f'bpe {vocab_size}', texts)}.json"
    if not destination.exists():
        with scratch_folder(cache) as scratch:
            train_tokenizer(texts, vocab_size).save(str(scratch / destination.name))
            publish(scratch / destination.name, destination)
    return tokenizers.Tokenizer.from_file(str(destination))


def cached_tokens(texts: Sequence[str], encode: Encode, settings: str, cache: Path) -> tuple[np.ndarray, np.ndarray]:
    """The ids of all texts in one array, (T,) int32, memory-mapped, and where each text begins in it, (N + 1,) int64.

    Args:
        texts: N texts.
        encode: makes a list of ids of each text; called only if the ids are not in `cache`.
        settings: what the ids depend on besides the texts.
        cache: the folder for the files.
    """
    destination = cache / f"tokens-{identity(settings, texts)}"
    if not destination.exists():
        # Unless this is set, tokenizers warns when loader processes are forked later; these only read the ids.
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
