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
from src.data.split import split_off_missing
from src.data.token_cache import cached_tokenizer, cached_tokens
from src.data.tokens import (
    SPECIAL_TOKENS,
    Encode,
    load_pretrained,
    pretrained_encode,
    pretrained_identity,
    trained_encode,
)
from src.data.verify import digest


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
    # A boolean index runs through the rows one after the other, as the concatenated ids do.
    ids[is_token] = np.concatenate(rows)
    return {
        "input_ids": torch.from_numpy(ids),
        "attention_mask": torch.from_numpy(is_token.astype(np.int64)),
    }


def drop_tokens(inputs: dict[str, Tensor], share: float, special_ids: Tensor, pad_token_id: int) -> dict[str, Tensor]:
    """Leave out a random `share` of each text's tokens, rounded down; the others close up, special ones all stay.

    Rows of one length stay so, and a batch of buckets as full as it was. Random numbers come from torch's global
    generator. `input_ids` and `attention_mask`, (B, T) each, become (B, at most T).
    """
    ids, is_token = inputs["input_ids"], inputs["attention_mask"].bool()
    droppable = is_token & ~torch.isin(ids, special_ids)
    num_dropped = (droppable.sum(1, keepdim=True) * share).long()  # (B, 1)
    rank = torch.rand(ids.shape).masked_fill(~droppable, 1.0).argsort(1).argsort(1)
    kept = is_token & (rank >= num_dropped)
    num_kept = kept.sum(1, keepdim=True)
    # Stable: what is kept comes first, in its order.
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

    Texts become ids once, and the ids are cached in `root/cache`. In training a share of each text's tokens may be
    left out, others in each epoch ("word dropout" of https://aclanthology.org/P15-1162). A subclass gives its texts in
    `load`.

    Args:
        class_names: the classes in the order of their labels.
        vocab_size: entries of the tokenizer that is trained on the training split.
        max_length: tokens of a text that are kept, [CLS] and [SEP] included.
        token_dropout: in training, the share of a text's tokens that is left out.
        bucketing: have texts of similar length share a batch; without it there is more padding.
        tokenizer: folder or hub name of a pretrained tokenizer, whose vocabulary replaces `vocab_size`.
        batch_size: samples per batch and process.
        num_workers: loader processes per process.
        root: folder where datasets and caches live.
        split_seed: fixes which samples are split off for validation and test.
        val_fraction: share of the training samples that is held out for validation.
        test_fraction: share held out for the test, where the data has no test split of its own.
    """

    modality = "texts"

    def __init__(
        self,
        class_names: Sequence[str],
        vocab_size: int,
        max_length: int,
        token_dropout: float,
        bucketing: bool,
        tokenizer: str | None,
        batch_size: int,
        num_workers: int,
        root: str,
        split_seed: int,
        val_fraction: float,
        test_fraction: float = 0.0,
    ):
        super().__init__(
            class_names, batch_size, num_workers, root, split_seed, val_fraction, test_fraction=test_fraction
        )
        # Below these numbers the special tokens would leave no room for letters or for text.
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
        # Taken at once: encoding leaves traces in a pretrained tokenizer's files.
        self._pretrained_identity = None if self._pretrained is None else pretrained_identity(self._pretrained)
        self._vocab_size = vocab_size if self._pretrained is None else len(self._pretrained)

    @property
    def vocab_size(self) -> int:
        """How many different ids there may be; a tokenizer trained on few texts may use fewer."""
        return self._vocab_size

    @property
    def pad_token_id(self) -> int:
        """The id that fills the shorter rows of a batch."""
        return 0 if self._pretrained is None else self._pretrained.pad_token_id

    @property
    def special_ids(self) -> Tensor:
        """The ids that are no part of a text."""
        if self._pretrained is None:
            return torch.arange(len(SPECIAL_TOKENS))
        return torch.tensor(self._pretrained.all_special_ids)

    def load(self) -> dict[str, Texts]:
        """The texts of "train" and, where the source has them, of "val", "test" and "predict"."""
        raise NotImplementedError

    def _encoder(self, train: Texts) -> tuple[Encode, str]:
        """What makes ids of texts, and a name for it that differs where the ids would."""
        if self._pretrained is not None and self._pretrained_identity is not None:
            return pretrained_encode(self._pretrained, self.max_length), self._pretrained_identity
        tokenizer = cached_tokenizer(train.texts, self.vocab_size, self.root / "cache")
        name = tokenizer.to_str()
        return trained_encode(tokenizer, self.max_length), name

    def make_datasets(self) -> dict[str, TokenDataset]:
        """All splits, with the tokenizer trained on the training split."""
        splits = split_off_missing(self.load(), self.val_fraction, self.test_fraction, self.split_seed)
        encode, name = self._encoder(splits["train"])
        self._tokenizer_digest = digest(name.encode(), "sha256")
        settings = f"{self.max_length} {name}"
        datasets = {}
        for split, samples in splits.items():
            ids, offsets = cached_tokens(samples.texts, encode, settings, self.root / "cache")
            datasets[split] = TokenDataset(ids, offsets, samples.labels, self.pad_token_id)
        datasets.setdefault("predict", datasets["test"])
        return datasets

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of the data: the meaning of the labels and of the ids."""
        return super().state_dict() | {"tokenizer": self._tokenizer_digest}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Compare the data with that of a checkpoint.

        Raises:
            DataError: its labels mean other classes, or its ids other tokens.
        """
        super().load_state_dict(state_dict)
        if state_dict["tokenizer"] != self._tokenizer_digest:
            raise DataError(
                "The checkpoint was trained with another tokenizer, so its ids mean other tokens. A trained "
                "tokenizer follows from the training split and --data.vocab_size: give the training file, "
                "--data.split_seed, --data.vocab_size and --data.tokenizer of the training run."
            )

    def prepare_data(self) -> None:
        """Tokenize unless a run has already."""
        self.make_datasets()

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> tuple[dict[str, Tensor], Tensor]:
        """Drop tokens, in training, before the batch moves: the longest row's new length is known without waiting."""
        inputs, labels = super().on_before_batch_transfer(batch, dataloader_idx)
        if self.token_dropout and self.trainer and self.trainer.training:
            inputs = drop_tokens(inputs, self.token_dropout, self.special_ids, self.pad_token_id)
        return inputs, labels
