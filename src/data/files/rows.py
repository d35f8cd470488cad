"""Rows of a CSV, TSV or JSONL file, with errors that name the line.

The package `datasets` is not used: it takes 2 s to import and reads a missing JSON key as None.
"""

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from src.data.errors import DataError
from src.names import did_you_mean

DELIMITERS = {".csv": ",", ".tsv": "\t"}
EXTENSIONS = (*DELIMITERS, ".jsonl")


def require_columns(path: Path, wanted: dict[str, str], found: list[str]) -> None:
    """Raise a DataError that names the first of the `wanted` columns (flag: column) that is not in `found`."""
    for flag, column in wanted.items():
        if column not in found:
            raise DataError(
                f"{path} has no column {column!r}; it has {', '.join(map(repr, found))}.{did_you_mean(column, found)} "
                f"Name the right one with --data.{flag}."
            )


def delimited_rows(path: Path, delimiter: str, wanted: dict[str, str]) -> Iterator[tuple[int, list[str]]]:
    """The line number and the wanted columns of each row of a CSV or TSV file."""
    # The default limit of 128 KiB is shorter than some documents.
    csv.field_size_limit(sys.maxsize)
    # "utf-8-sig" drops the byte order mark that spreadsheets put before the first column's name.
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        try:
            header = next(reader, [])
            if header:
                require_columns(path, wanted, header)
            places = [header.index(column) for column in wanted.values()] if header else []
            for row in reader:
                if not row:
                    continue
                if len(row) != len(header):
                    raise DataError(
                        f"{path}, line {reader.line_num}: the row has {len(row)} columns, expected "
                        f"{len(header)} as in the header. Put quotes around a text that holds {delimiter!r}."
                    )
                yield reader.line_num, [row[place] for place in places]
        except csv.Error as error:
            raise DataError(
                f"{path}, line {reader.line_num}: {error}. Correct the quotes of this row; a quote inside a "
                "quoted text is written twice."
            ) from error


def json_rows(path: Path, wanted: dict[str, str]) -> Iterator[tuple[int, list[str]]]:
    """The line number and the wanted columns of each row of a JSONL file."""
    with path.open(encoding="utf-8-sig") as file:
        for line_number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.rstrip())
            except json.JSONDecodeError as error:
                raise DataError(
                    f"{path}, line {line_number}: broken JSON ({error.msg} at column {error.colno}). Expected one "
                    'object per line, such as {"text": "...", "label": "..."}.'
                ) from error
            if not isinstance(row, dict):
                raise DataError(
                    f"{path}, line {line_number}: got {type(row).__name__}, expected one object per line, such as "
                    '{"text": "...", "label": "..."}.'
                )
            require_columns(path, wanted, list(row))
            values = [row[column] for column in wanted.values()]
            # A label may be a number or a boolean; its class name is how Python writes it.
            yield line_number, ["" if value is None else str(value) for value in values]


def read_columns(path: Path, wanted: dict[str, str]) -> list[tuple[int, list[str]]]:
    """The line number and the `wanted` columns (flag: column) of each row of a file.

    Raises:
        DataError: the file is missing, empty, malformed, not UTF-8, or of an unknown extension.
    """
    if path.suffix.lower() not in EXTENSIONS:
        raise DataError(
            f"{path} ends in {path.suffix!r}: expected one of {', '.join(EXTENSIONS)}. Convert or rename the file."
        )
    if not path.is_file():
        raise DataError(f"There is no file {path.absolute()}. Correct the path.")
    delimiter = DELIMITERS.get(path.suffix.lower())
    try:
        rows = list(delimited_rows(path, delimiter, wanted) if delimiter else json_rows(path, wanted))
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}). Convert the file.") from error
    if not rows:
        raise DataError(f"{path} holds no rows. Expected a text and a label in each.")
    return rows
