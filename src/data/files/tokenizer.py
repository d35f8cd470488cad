"""Tokenizers, which make token ids of texts: trained on the training split, or pretrained."""

import hashlib
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers

from src.data.errors import DataError

SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]

Encode = Callable[[Sequence[str]], list[list[int]]]


def train_tokenizer(texts: Sequence[str], vocab_size: int) -> tokenizers.Tokenizer:
    """A lowercasing byte-pair tokenizer that writes `[CLS] text [SEP]`; the id of [PAD] is 0.

    It is not WordPiece: the WordPiece trainer gives different ids in each run for the same texts (tokenizers 0.23), and
    a checkpoint is useless with other ids.
    """
    tokenizer = tokenizers.Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL_TOKENS,
        # In large alphabets the rare letters become [UNK], which leaves room for words.
        limit_alphabet=vocab_size // 4,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    return tokenizer


def trained_encode(tokenizer: tokenizers.Tokenizer, max_length: int) -> Encode:
    """A function from texts to ids, by a tokenizer of `train_tokenizer`; texts are cut to `max_length` tokens."""
    tokenizer.enable_truncation(max_length)
    return lambda texts: [encoding.ids for encoding in tokenizer.encode_batch_fast(texts)]


def load_pretrained(name: str) -> Any:
    """A tokenizer of transformers, from a folder or the hub.

    Raises:
        DataError: it cannot be loaded or has no token for padding.
    """
    # Importing transformers takes seconds, which only a pretrained tokenizer needs.
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(
            f"tokenizer={name!r} cannot be loaded ({reason}) Expected a folder written by save_pretrained or, "
            "with network, a name on the Hugging Face hub. Set --data.tokenizer, or null to train one."
        ) from error
    if tokenizer.pad_token_id is None:
        raise DataError(
            f"tokenizer={name!r} has no padding token, which batches need. Load it with AutoTokenizer, set its "
            "pad_token (often to its eos_token), save_pretrained it to a folder and pass that folder."
        )
    return tokenizer


def pretrained_encode(tokenizer: Any, max_length: int) -> Encode:
    """A function from texts to ids, by a tokenizer of transformers; texts are cut to `max_length` tokens."""
    return lambda texts: tokenizer(list(texts), truncation=True, max_length=max_length)["input_ids"]


def pretrained_identity(tokenizer: Any) -> str:
    """A hash of all files that the tokenizer is saved as: together they determine the ids."""
    identity = hashlib.sha256()
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file():
                identity.update(path.read_bytes())
    return identity.hexdigest()
