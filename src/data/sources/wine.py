"""Wine: a table of chemical measurements that ships inside scikit-learn."""

from typing import Any

from src.data.arrays import ArrayDataset
from src.data.tables import TabularData


class Wine(TabularData):
    """178 wines of three cultivars by 13 measurements whose standard deviations go from 0.12 to 314.

    The UCI "Wine" set (https://doi.org/10.24432/C5PC7J). It has no official split: validation and test are split off,
    stratified by class.
    """

    def __init__(self, **options: Any):
        super().__init__(class_names=["class_0", "class_1", "class_2"], num_columns=13, **options)

    def load(self) -> dict[str, ArrayDataset]:
        """All wines, to be split."""
        from sklearn.datasets import load_wine  # imports pandas: a second that other data do not need

        table = load_wine()
        return {"train": ArrayDataset(table.data, table.target)}
