"""The user's own texts: kinds of files, splits, and errors."""

import json
from pathlib import Path
from typing import Any

import pytest

from src.data import DataError, TextFiles
from tests.helpers.standin_data import make_text_file, sentences


def set_up(tmp_path: Path, **arguments: Any) -> Any:
    data = TextFiles(root=str(tmp_path), vocab_size=64, max_length=16, **arguments)
    data.prepare_data()
    data.setup("fit")
    return data


def file_of(tmp_path: Path, content: str, name: str = "train.csv") -> Path:
    path = tmp_path / name
    path.write_text(content)
    return path


@pytest.mark.parametrize("extension", [".csv", ".tsv", ".jsonl"])
def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"train{extension}"
    pairs = sentences(["ham", "spam"], 20, seed=0)
    if extension == ".jsonl":
        path.write_text("\n".join(json.dumps({"label": name, "text": text}) for name, text in pairs) + "\n\n")
    else:
        make_text_file(path)
    data = set_up(tmp_path, train=str(path))
    assert data.class_names == ["ham", "spam"]
    assert [len(data.datasets[split]) for split in ("train", "val", "test")] == [32, 4, 4]
    assert data.load()["train"].texts == [text for _, text in pairs]


def test_own_splits_columns_and_texts_to_predict(tmp_path: Path) -> None:
    columns: dict[str, Any] = {"text_column": "body", "label_column": "kind"}
    files = {split: str(make_text_file(tmp_path / f"{split}.csv", **columns)) for split in ("train", "val", "test")}
    predict = file_of(tmp_path, 'body\n"first, with\na line break"\nsecond\n', "predict.csv")
    data = set_up(tmp_path, **files, **columns, predict_file=str(predict))
    assert [len(data.datasets[split]) for split in ("train", "val", "test", "predict")] == [40, 40, 40, 2]
    inputs, labels = next(iter(data.predict_dataloader()))
    assert labels.tolist() == [-1, -1]
    lengths = inputs["attention_mask"].sum(1)
    assert lengths[0] > lengths[1]


def test_byte_order_mark_long_texts_and_numbers_as_labels(tmp_path: Path) -> None:
    rows = [{"text": "x" * 200_000, "label": number % 2} for number in range(20)]
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8-sig")
    assert TextFiles(str(path)).class_names == ["0", "1"]
    path = tmp_path / "train.csv"
    path.write_text("text,label\n" + f"{'x' * 200_000},1\nshort,0\n" * 10, encoding="utf-8-sig")
    assert TextFiles(str(path)).class_names == ["0", "1"]


BROKEN = {
    "missing file": (None, "There is no file {path}. Correct the path."),
    "empty file": ("", "{path} holds no rows. Expected a text and a label in each."),
    "header only": ("text,label\n", "{path} holds no rows. Expected a text and a label in each."),
    "missing column": (
        "id,Text,label\n1,a,b\n",
        "{path} has no column 'text'; it has 'id', 'Text', 'label'. Did you mean 'Text'? Name the right one with "
        "--data.text_column.",
    ),
    "missing column like no other": (
        "text,class\na,b\n",
        "{path} has no column 'label'; it has 'text', 'class'. Name the right one with --data.label_column.",
    ),
    "empty label": (
        "text,label\na,x\nb, \n",
        "{path}, line 3: the label is empty. Fill in the column 'label' or remove the row.",
    ),
    "too many columns": (
        "text,label\na,b,c\n",
        "{path}, line 2: the row has 3 columns, expected 2 as in the header. Put quotes around a text that holds ','.",
    ),
    "open quote": (
        'text,label\n"a,b\n',
        "{path}, line 2: unexpected end of data. Correct the quotes of this row; a quote inside a quoted text is "
        "written twice.",
    ),
    "one class": (
        "text,label\na,x\nb,x\n",
        "{path} has the single class 'x' in its column 'label': expected two or more. Add samples of another class or "
        "name another column with --data.label_column.",
    ),
}


@pytest.mark.parametrize(("content", "message"), BROKEN.values(), ids=BROKEN)
def test_broken_csv(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "train.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError) as error:
        TextFiles(str(path))
    assert str(error.value) == message.format(path=path)


BROKEN_JSON = {
    "broken": (
        '{"text": "a", "label": "x"}\n{"text": \n',
        "{path}, line 2: broken JSON (Expecting value at column 9). Expected one object per line, such as "
        '{{"text": "...", "label": "..."}}.',
    ),
    "no object": (
        "[1, 2]\n",
        '{path}, line 1: got list, expected one object per line, such as {{"text": "...", "label": "..."}}.',
    ),
    "missing key": (
        '{"text": "a", "labels": "x"}\n',
        "{path} has no column 'label'; it has 'text', 'labels'. Did you mean 'labels'? Name the right one with "
        "--data.label_column.",
    ),
    "null label": (
        '{"text": "a", "label": null}\n',
        "{path}, line 1: the label is empty. Fill in the column 'label' or remove the row.",
    ),
}


@pytest.mark.parametrize(("content", "message"), BROKEN_JSON.values(), ids=BROKEN_JSON)
def test_broken_jsonl(tmp_path: Path, content: str, message: str) -> None:
    path = file_of(tmp_path, content, "train.jsonl")
    with pytest.raises(DataError) as error:
        TextFiles(str(path))
    assert str(error.value) == message.format(path=path)


def test_unknown_extension(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        TextFiles(f"{tmp_path}/train.xlsx")
    assert str(error.value) == (
        f"{tmp_path}/train.xlsx ends in '.xlsx': expected one of .csv, .tsv, .jsonl. Convert or rename the file."
    )


def test_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_bytes("text,label\ncafé,x\n".encode("latin-1"))
    with pytest.raises(DataError) as error:
        TextFiles(str(path))
    assert str(error.value) == (f"{path} is not UTF-8 (invalid continuation byte at byte 14). Convert the file.")


def test_class_that_training_lacks(tmp_path: Path) -> None:
    train = make_text_file(tmp_path / "train.csv")
    val = file_of(tmp_path, "text,label\na,ham\nb,eggs\n", "val.csv")
    with pytest.raises(DataError) as error:
        TextFiles(str(train), val=str(val))
    assert str(error.value) == (
        f"{val}, line 3: the class 'eggs' is not in {train}. Add training samples of it or remove the row."
    )


def test_too_few_samples_to_split(tmp_path: Path) -> None:
    path = file_of(tmp_path, "text,label\na,x\nb,y\n")
    with pytest.raises(DataError) as error:
        set_up(tmp_path, train=str(path))
    assert str(error.value) == (
        "0.1 of 2 samples in 2 classes leaves the test split empty: expected a class with at least two samples and a "
        "fraction that makes one whole sample. Give more samples per class, raise --data.test_fraction, or bring a "
        "test split."
    )
