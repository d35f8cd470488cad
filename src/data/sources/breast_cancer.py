"""Breast cancer: a table of measurements of tumours that ships inside scikit-learn."""

from typing import Any

from src.data.arrays import ArrayDataset
from src.data.tables import TabularData


class BreastCancer(TabularData):
    """569 tumours, benign or malignant, by 30 measurements whose standard deviations go from 0.003 to 569.

    The UCI "Breast Cancer Wisconsin (Diagnostic)" set (https://doi.org/10.24432/C5DW2B). It has no official split:
    validation and test are split off, stratified by class.
    """

    def __init__(self, **options: Any):
        super().__init__(class_names=["malignant", "benign"], num_columns=30, **options)

    def load(self) -> dict[str, ArrayDataset]:
        """All tumours, to be split."""
        from sklearn.datasets import load_breast_cancer  # imports pandas: a second that other data do not need

        table = load_breast_cancer()
        return {"train": ArrayDataset(table.data, table.target)}
