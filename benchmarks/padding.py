"""The share of padding in batches of text, in training and in evaluation.

python -m benchmarks.padding --root=data
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import yaml

from benchmarks.timing import options_parser
from src.data import DATASETS, TextData
from src.markdown import markdown_table

CONFIGS = Path(__file__).parents[1] / "configs"


def padding_share(lengths: np.ndarray, batches: Iterable[Sequence[int]]) -> float:
    """The share of positions without a token, where each batch is as wide as its longest text."""
    tokens = positions = 0
    for batch in batches:
        tokens += int(lengths[batch].sum())
        positions += len(batch) * int(lengths[batch].max())
    return 1 - tokens / positions


def rows(config: str, root: str) -> Iterable[list[object]]:
    """One row for the training split and one for the test split of a config's data."""
    options = yaml.safe_load((CONFIGS / f"{config}.yaml").read_text())["data"]
    data = DATASETS[options["class_path"]](**options["init_args"], root=root)
    assert isinstance(data, TextData)
    data.prepare_data()
    data.setup("fit")
    for split, loader in (("train", data.train_dataloader()), ("test", data.test_dataloader())):
        lengths = data.datasets[split].lengths
        assert lengths is not None
        in_order = [
            range(start, min(start + data.batch_size, len(lengths)))
            for start in range(0, len(lengths), data.batch_size)
        ]
        share, unsorted = padding_share(lengths, loader.sampler), padding_share(lengths, in_order)
        sizes = [data.batch_size, data.max_length, f"{lengths.mean():.0f}"]
        yield [options["class_path"], split, *sizes, f"{share:.1%}", f"{unsorted:.1%}"]


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--root", default="data", help="folder of the datasets")
    root = parser.parse_args().root
    header = ["data", "split", "batch size", "max_length", "mean length", "padding", "without buckets"]
    found = (row for config in ("reuters8", "reuters52", "newsgroups20") for row in rows(config, root))
    print(markdown_table(header, found))


if __name__ == "__main__":
    main()
