"""The user's own texts, in CSV, TSV or JSONL files."""

from pathlib import Path
from typing import Any

import numpy as np

from src.data.errors import DataError
from src.data.files.rows import read_columns
from src.data.texts import TextData, Texts


def read_labelled(path: Path, text_column: str, label_column: str) -> tuple[list[str], list[str], list[int]]:
    """The texts, the class names and the line numbers of a file.

    Raises:
        DataError: a row has no label, or `read_columns` refuses the file.
    """
    rows = read_columns(path, {"text_column": text_column, "label_column": label_column})
    for line_number, (_, name) in rows:
        if not name.strip():
            raise DataError(
                f"{path}, line {line_number}: the label is empty. Fill in the column {label_column!r} or remove "
                "the row."
            )
    return (
        [text for _, (text, _) in rows],
        [name.strip() for _, (_, name) in rows],
        [line for line, _ in rows],
    )


def read_unlabelled(path: Path, text_column: str) -> Texts:
    """The texts of a file, with the label -1."""
    texts = [text for _, (text,) in read_columns(path, {"text_column": text_column})]
    return Texts(texts, np.full(len(texts), -1, dtype=np.int64))


def read_splits(files: dict[str, Path], text_column: str, label_column: str) -> tuple[list[str], dict[str, Texts]]:
    """The class names of "train", sorted, and the labelled texts of each split.

    Raises:
        DataError: there are fewer than two classes, or "train" lacks a class of another split.
    """
    columns = {split: read_labelled(path, text_column, label_column) for split, path in files.items()}
    class_names = sorted(set(columns["train"][1]))
    if len(class_names) < 2:
        raise DataError(
            f"{files['train']} has the single class {class_names[0]!r} in its column {label_column!r}: expected two "
            "or more. Add samples of another class or name another column with --data.label_column."
        )
    label_of = {name: label for label, name in enumerate(class_names)}
    splits = {}
    for split, (texts, names, line_numbers) in columns.items():
        for name, line_number in zip(names, line_numbers, strict=True):
            if name not in label_of:
                raise DataError(
                    f"{files[split]}, line {line_number}: the class {name!r} is not in {files['train']}. Add "
                    "training samples of it or remove the row."
                )
        splits[split] = Texts(texts, np.array([label_of[name] for name in names], dtype=np.int64))
    return class_names, splits


class TextFiles(TextData):
    """Texts and labels from columns of CSV, TSV or JSONL files, told apart by their extension.

    CSV and TSV files begin with a row of column names. Splits without a file are split off the training file,
    stratified by class. Files are UTF-8. The class names are the labels as they are written, sorted.

    Args:
        train: the training file.
        val: the validation file; split off the training file if not given.
        test: the test file; split off the training file if not given.
        predict_file: a file of texts to predict, without labels; the test split is predicted if it is not given.
        text_column: name of the column of texts.
        label_column: name of the column of labels.

    Raises:
        DataError: a file is missing, empty or malformed, a column is missing, a label is empty, there are fewer
            than two classes, or a class of `val` or `test` is not in `train`.
    """

    def __init__(
        self,
        train: str,
        val: str | None = None,
        test: str | None = None,
        predict_file: str | None = None,
        text_column: str = "text",
        label_column: str = "label",
        **options: Any,
    ):
        given = {"train": train, "val": val, "test": test}
        files = {split: Path(path) for split, path in given.items() if path is not None}
        class_names, self._splits = read_splits(files, text_column, label_column)
        if predict_file is not None:
            self._splits["predict"] = read_unlabelled(Path(predict_file), text_column)
        super().__init__(class_names=class_names, **options)

    def load(self) -> dict[str, Texts]:
        """The splits that have a file."""
        return self._splits
