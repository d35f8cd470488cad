"""How much of the text batches is padding, in training and in evaluation.

python -m benchmarks.padding --root=data
"""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import yaml

from src.data import DATASETS, TextData

CONFIGS = Path(__file__).parents[1] / "configs"


def padding_share(lengths: np.ndarray, batches: Iterable[Sequence[int]]) -> float:
    """Which share of the positions of `batches`, each as wide as its longest text, holds no token."""
    tokens = positions = 0
    for batch in batches:
        tokens += int(lengths[batch].sum())
        positions += len(batch) * int(lengths[batch].max())
    return 1 - tokens / positions


def rows(config: str, root: str) -> Iterable[str]:
    """A row of the table for the training split and one for the test split of a config's data."""
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
        yield (
            f"| {options['class_path']} | {split} | {data.batch_size} | {data.max_length} | {lengths.mean():.0f} "
            f"| {share:.1%} | {unsorted:.1%} |"
        )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="data", help="folder of the datasets")
    root = parser.parse_args().root
    print("| data | split | batch size | max_length | mean length | padding | without buckets |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for config in ("reuters8", "reuters52", "newsgroups20"):
        print("\n".join(rows(config, root)))


if __name__ == "__main__":
    main()
