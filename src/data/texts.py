"""Texts as token ids, padded to the longest of their batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from src.data.base import ClassificationData, require_at_least
from src.data.dataset import BatchDataset
from src.data.errors import DataError
from src.data.files.token_cache import cached_tokenizer, cached_tokens
from src.data.files.tokenizer import (
    SPECIAL_TOKENS,
    Encode,
    load_pretrained,
    pretrained_encode,
    pretrained_identity,
    trained_encode,
)
from src.data.files.verify import digest


@dataclass(frozen=True)
class Texts:
    """Texts and their labels, before tokenization."""

    texts: list[str]
    labels: np.ndarray  # (N,) int64, -1 where unknown

    def take(self, rows: np.ndarray) -> "Texts":
        """These rows only."""
        return Texts([self.texts[row] for row in rows], self.labels[rows])


def pad(rows: Sequence[np.ndarray], pad_token_id: int) -> dict[str, Tensor]:
    """Rows of ids of different lengths as `input_ids` and `attention_mask`, (B, T) int64 each.

    T is the longest row's length; the mask is 1 for a token and 0 for padding.
    """
    lengths = np.array([len(row) for row in rows])
    is_token = np.arange(lengths.max()) < lengths[:, None]  # (B, T)
    ids = np.full(is_token.shape, pad_token_id, dtype=np.int64)
    # A boolean index visits the rows one after the other, the order of the concatenated ids.
    ids[is_token] = np.concatenate(rows)
    return {
        "input_ids": torch.from_numpy(ids),
        "attention_mask": torch.from_numpy(is_token.astype(np.int64)),
    }


def drop_tokens(inputs: dict[str, Tensor], share: float, special_ids: Tensor, pad_token_id: int) -> dict[str, Tensor]:
    """Leave out a random `share` of each text's tokens, rounded down.

    The other tokens close the gaps. All special tokens stay.
    Rows of equal length keep equal lengths, so the share of padding does not grow. Random numbers come from torch's
    global generator. `input_ids` and `attention_mask`, (B, T) each, become (B, at most T).
    """
    ids, is_token = inputs["input_ids"], inputs["attention_mask"].bool()
    droppable = is_token & ~torch.isin(ids, special_ids)
    num_dropped = (droppable.sum(1, keepdim=True) * share).long()  # (B, 1)
    rank = torch.rand(ids.shape).masked_fill(~droppable, 1.0).argsort(1).argsort(1)
    kept = is_token & (rank >= num_dropped)
    num_kept = kept.sum(1, keepdim=True)
    # A stable sort: the tokens that are kept come first, in their order.
    order = (~kept).to(torch.int8).argsort(dim=1, stable=True)[:, : int(num_kept.max())]
    mask = torch.arange(order.shape[1]) < num_kept
    return {
        "input_ids": ids.gather(1, order).masked_fill(~mask, pad_token_id),
        "attention_mask": mask.long(),
    }


class TokenDataset(BatchDataset):
    """Token ids of N texts, all in one array.

    Args:
        ids: (T,) the ids of all texts, one after the other.
        offsets: (N + 1,) where each text begins and the last one ends.
        labels: (N,) int64.
        pad_token_id: fills the shorter rows of a batch.
    """

    def __init__(self, ids: np.ndarray, offsets: np.ndarray, labels: np.ndarray, pad_token_id: int):
        self.ids = ids
        self.offsets = offsets
        self.labels = np.asarray(labels, dtype=np.int64)
        self.lengths = np.diff(offsets)
        self.pad_token_id = pad_token_id

    def batch(self, indices: np.ndarray) -> tuple[dict[str, Tensor], Tensor]:
        """`{"input_ids", "attention_mask"}`, (B, T) int64 each, and labels, (B,) int64."""
        rows = [self.ids[self.offsets[index] : self.offsets[index + 1]] for index in indices]
        return pad(rows, self.pad_token_id), torch.from_numpy(self.labels[indices])


class TextData(ClassificationData):
    """Texts in batches: a dict of `input_ids` and `attention_mask`, (B, T) int64, and labels (B,).

    Texts are tokenized once, and their ids are cached in `root/cache`. In training a share of each text's tokens may be
    left out, different ones in each epoch ("word dropout" of https://aclanthology.org/P15-1162). A source gives `Texts`
    for each split in `load`.

    Args:
        class_names: the classes in the order of their labels.
        vocab_size: entries of the tokenizer that is trained on the training split.
        max_length: tokens of a text that are kept, [CLS] and [SEP] included.
        token_dropout: in training, the share of a text's tokens that is left out, different ones in each epoch.
        bucketing: have texts of similar length share a batch; without it there is more padding.
        tokenizer: folder or hub name of a pretrained tokenizer, whose vocabulary replaces `vocab_size`; null trains
            one.
        val_fraction: share of the training samples that is held out for validation, if there is no validation split.
        test_fraction: share of the training samples that is held out for the test, if there is no test split.
    """

    modality = "texts"

    def __init__(
        self,
        class_names: Sequence[str],
        vocab_size: int = 8192,
        max_length: int = 256,
        token_dropout: float = 0.0,
        bucketing: bool = True,
        tokenizer: str | None = None,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        **options: Any,
    ):
        super().__init__(class_names=class_names, val_fraction=val_fraction, test_fraction=test_fraction, **options)
        # With less, the special tokens would leave no room for letters or for text.
        require_at_least(4 * len(SPECIAL_TOKENS), vocab_size=vocab_size)
        require_at_least(3, max_length=max_length)
        if not 0 <= token_dropout < 1:
            raise DataError(
                f"token_dropout={token_dropout}: expected 0 or more and less than 1, the share of a text's tokens that "
                "training leaves out. Set --data.token_dropout."
            )
        self.max_length = max_length
        self.token_dropout = token_dropout
        self.bucketing = bucketing
        self._pretrained = None if tokenizer is None else load_pretrained(tokenizer)
        # Computed before the first encoding, which changes the files that a pretrained tokenizer is saved as.
        self._pretrained_identity = None if self._pretrained is None else pretrained_identity(self._pretrained)
        self._vocab_size = vocab_size if self._pretrained is None else len(self._pretrained)

    @property
    def vocab_size(self) -> int:
        """The largest number of different ids; a tokenizer trained on few texts may have fewer."""
        return self._vocab_size

    @property
    def pad_token_id(self) -> int:
        """The id that fills the shorter rows of a batch."""
        return 0 if self._pretrained is None else self._pretrained.pad_token_id

    @property
    def special_ids(self) -> Tensor:
        """The ids of the special tokens, such as [PAD] and [CLS]."""
        if self._pretrained is None:
            return torch.arange(len(SPECIAL_TOKENS))
        return torch.tensor(self._pretrained.all_special_ids)

    def _encoder(self, train: Texts) -> tuple[Encode, str]:
        """The function that makes ids of texts, and a string that changes whenever the ids would change."""
        if self._pretrained is not None and self._pretrained_identity is not None:
            return pretrained_encode(self._pretrained, self.max_length), self._pretrained_identity
        tokenizer = cached_tokenizer(train.texts, self.vocab_size, self.root / "cache")
        identity = tokenizer.to_str()  # before `trained_encode`, which sets the tokenizer's truncation
        return trained_encode(tokenizer, self.max_length), identity

    def make_datasets(self) -> dict[str, TokenDataset]:
        """All splits; the tokenizer is trained on the training split."""
        splits = self.load_splits()
        encode, identity = self._encoder(splits["train"])
        self._tokenizer_digest = digest(identity.encode(), "sha256")
        settings = f"{self.max_length} {identity}"
        datasets = {}
        for split, samples in splits.items():
            ids, offsets = cached_tokens(samples.texts, encode, settings, self.root / "cache")
            datasets[split] = TokenDataset(ids, offsets, samples.labels, self.pad_token_id)
        return datasets

    def state_dict(self) -> dict[str, Any]:
        """The data's part of a checkpoint: the classes that the labels stand for, and the tokenizer's hash."""
        return super().state_dict() | {"tokenizer": self._tokenizer_digest}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Check that the data fit the checkpoint that `state_dict` comes from.

        Raises:
            DataError: the checkpoint's labels stand for other classes, or its ids for other tokens.
        """
        super().load_state_dict(state_dict)
        if state_dict["tokenizer"] != self._tokenizer_digest:
            raise DataError(
                "The checkpoint was trained with another tokenizer, so its ids mean other tokens. A trained "
                "tokenizer follows from the training split and --data.vocab_size: give the training file, "
                "--data.split_seed, --data.vocab_size and --data.tokenizer of the training run."
            )

    def prepare_data(self) -> None:
        """Tokenize, unless the cache has the ids."""
        self.make_datasets()

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> tuple[dict[str, Tensor], Tensor]:
        """In training, drop tokens while the batch is on the CPU: reading the new length from a GPU would stall it."""
        inputs, labels = super().on_before_batch_transfer(batch, dataloader_idx)
        if self.token_dropout and self.trainer and self.trainer.training:
            inputs = drop_tokens(inputs, self.token_dropout, self.special_ids, self.pad_token_id)
        return inputs, labels
