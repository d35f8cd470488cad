"""Tables of measurements in different units, two of which ship inside scikit-learn."""

from collections.abc import Sequence

from src.data.arrays import ArrayData, ArrayDataset
from src.data.scaling import ScalingName


class TabularData(ArrayData):
    """Rows of a table in batches: float32 (B, D) and labels (B,). A subclass gives its rows in `load`.

    Args:
        class_names: the classes in the order of their labels.
        num_features: columns D.
        scaling: "standardize" each column, "minmax" each to 0..1, or "none" for the numbers in their own units.
        batch_size: samples per batch and process.
        num_workers: loader processes per process.
        root: folder where datasets and caches live.
        split_seed: fixes which samples are split off for validation and test.
        val_fraction: share of the training samples that is held out for validation.
        test_fraction: share held out for the test, where the data has no test split of its own.
    """

    modality = "tables"

    def __init__(
        self,
        class_names: Sequence[str],
        num_features: int,
        scaling: ScalingName,
        batch_size: int,
        num_workers: int,
        root: str,
        split_seed: int,
        val_fraction: float,
        test_fraction: float = 0.0,
    ):
        super().__init__(
            class_names,
            shape=(num_features,),
            scaling=scaling,
            batch_size=batch_size,
            num_workers=num_workers,
            root=root,
            split_seed=split_seed,
            val_fraction=val_fraction,
            test_fraction=test_fraction,
        )


class BreastCancer(TabularData):
    """569 tumours, benign or malignant, by 30 measurements whose standard deviations go from 0.003 to 569.

    The UCI "Breast Cancer Wisconsin (Diagnostic)" set (https://doi.org/10.24432/C5DW2B). It has no official split:
    validation and test are split off, stratified by class.

    Args:
        scaling: "standardize" each column, "minmax" each to 0..1, or "none" for the numbers in their own units.
        batch_size: samples per batch and process.
        num_workers: loader processes per process; 0 loads in the training process itself.
        root: unused; the table comes with scikit-learn.
        split_seed: fixes which samples are split off for validation and test.
        val_fraction: share of all samples that is held out for validation.
        test_fraction: share of all samples that is held out for the test.
    """

    def __init__(
        self,
        scaling: ScalingName = "standardize",
        batch_size: int = 32,
        num_workers: int = 0,
        root: str = "data",
        split_seed: int = 0,
        val_fraction: float = 0.2,
        test_fraction: float = 0.2,
    ):
        super().__init__(
            class_names=["malignant", "benign"],
            num_features=30,
            scaling=scaling,
            batch_size=batch_size,
            num_workers=num_workers,
            root=root,
            split_seed=split_seed,
            val_fraction=val_fraction,
            test_fraction=test_fraction,
        )

    def load(self) -> dict[str, ArrayDataset]:
        """All tumours, to be split."""
        from sklearn.datasets import load_breast_cancer  # a second, with pandas, that other data do not need

        table = load_breast_cancer()
        return {"train": ArrayDataset(table.data, table.target)}


class Wine(TabularData):
    """178 wines of three cultivars by 13 measurements whose standard deviations go from 0.12 to 314.

    The UCI "Wine" set (https://doi.org/10.24432/C5PC7J). It has no official split: validation and test are split off,
    stratified by class.

    Args:
        scaling: "standardize" each column, "minmax" each to 0..1, or "none" for the numbers in their own units.
        batch_size: samples per batch and process.
        num_workers: loader processes per process; 0 loads in the training process itself.
        root: unused; the table comes with scikit-learn.
        split_seed: fixes which samples are split off for validation and test.
        val_fraction: share of all samples that is held out for validation.
        test_fraction: share of all samples that is held out for the test.
    """

    def __init__(
        self,
        scaling: ScalingName = "standardize",
        batch_size: int = 32,
        num_workers: int = 0,
        root: str = "data",
        split_seed: int = 0,
        val_fraction: float = 0.2,
        test_fraction: float = 0.2,
    ):
        super().__init__(
            class_names=["class_0", "class_1", "class_2"],
            num_features=13,
            scaling=scaling,
            batch_size=batch_size,
            num_workers=num_workers,
            root=root,
            split_seed=split_seed,
            val_fraction=val_fraction,
            test_fraction=test_fraction,
        )

    def load(self) -> dict[str, ArrayDataset]:
        """All wines, to be split."""
        from sklearn.datasets import load_wine  # a second, with pandas, that other data do not need

        table = load_wine()
        return {"train": ArrayDataset(table.data, table.target)}
