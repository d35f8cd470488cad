"""Tables: rows of measurements, each column in a unit of its own."""

from collections.abc import Sequence
from typing import Any

from src.data.arrays import ArrayData


class TabularData(ArrayData):
    """Rows of a table in batches: float32 (B, D) and labels (B,).

    Args:
        class_names: the classes in the order of their labels.
        num_columns: the number D of columns.
        val_fraction: share of the training samples (of all, if the data have no splits) that is held out for
            validation, if there is no validation split.
        test_fraction: share of the training samples (of all, if the data have no splits) that is held out for the test,
            if there is no test split.
    """

    modality = "tables"

    def __init__(
        self,
        class_names: Sequence[str],
        num_columns: int,
        val_fraction: float = 0.2,
        test_fraction: float = 0.2,
        **options: Any,
    ):
        super().__init__(
            class_names=class_names,
            shape=(num_columns,),
            val_fraction=val_fraction,
            test_fraction=test_fraction,
            **options,
        )
