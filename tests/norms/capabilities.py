"""`python -m tests.norms.capabilities` writes the table of each norm's capabilities, from the results of the checks."""

import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from src.markdown import markdown_table
from src.norms import NORMS
from tests.norms.conform import CHECKS, Subject, subjects
from tests.norms.conform.processes import synchronization

TABLE = Path(__file__).parents[2] / "docs" / "capabilities.md"

COLUMNS: dict[str, tuple[str, ...]] = {
    "autocast": ("autocast", "mixed_precision"),
    "channels last": ("channels_last",),
    "compile": ("compiles_whole", "compiles_with_cumulative_average"),
    "export": ("exports_for_inference", "exports_for_training"),
    "ONNX": ("exports_to_onnx",),
    "folds": ("folds_on_export",),
    "vmap": ("maps_over_inputs", "maps_over_layers"),
    "forward mode": ("gradcheck_first",),
    "double backward": ("gradcheck_second", "forward_over_reverse"),
    "masked": ("padding",),
    "threads": ("serves_threads",),
    "nested": ("takes_nested_tensors",),
}
DTYPES = {
    "float32": "precision_in_float32",
    "bfloat16": "precision_in_bfloat16",
    "float16": "precision_in_float16",
}
HEAD = """\
# What each norm can do

`make capabilities` writes this page from the results of the conformance suite (`tests/norms/conform`). A test compares
the two. The drop-in classes come first, then each family in its two layouts.

- yes: every check of the column passes. no: a check fails. -: there is nothing to check, or torch's layer cannot do it.
- dtypes: float64 is equal to torch's to 1e-10. The error of the others against float64 is at most twice the error of
  torch's layer plus one unit in the last place (float32: plus two). Where torch has no such layer, float64 means that
  numerical derivatives agree, and the error of the others is at most four units; a gradient that sums n values has at
  least the unit of the root of n.
- folds: exported in eval, it is one scale and one shift, which fold into the layer before it.
- vmap: in eval, over inputs and over layers.
- masked: outputs and statistics do not depend on padding.
- threads: in eval, threads that call one layer at the same time get their own answers, with their own padding masks.
- nested: a nested tensor, jagged or strided, gives the outputs, gradients and statistics of all its positions.
- sync: "not needed": no sample depends on another in training. "yes": many processes with `sync_batchnorm` use the
  statistics of all their samples. "refused": they cannot, and the error says what to use instead.
"""


def passes(subject: Subject, name: str) -> bool | None:
    """Whether the subject passes a check; None if the check does not apply to the subject."""
    check = CHECKS[name]
    return check.failure(subject) is None if check.applies(subject) else None


def cell(results: list[bool | None]) -> str:
    known = [result for result in results if result is not None]
    return "-" if not known else "yes" if all(known) else "no"


def dtypes(subject: Subject, result: Callable[[Subject, str], bool | None]) -> str:
    exact = all(result(subject, name) is not False for name in ("outputs", "gradients", "gradcheck_first"))
    return ", ".join((["float64"] if exact else []) + [t for t, check in DTYPES.items() if result(subject, check)])


def row(subject: Subject, result: Callable[[Subject, str], bool | None]) -> list[str]:
    cells = [cell([result(subject, name) for name in names]) for names in COLUMNS.values()]
    return [subject.name, dtypes(subject, result), *cells, synchronization(subject)]


def table(result: Callable[[Subject, str], bool | None] = passes) -> str:
    rows = [row(subject, result) for subject in subjects(name for name in NORMS if not name.startswith("Torch"))]
    head = ["norm", "dtypes", *COLUMNS, "sync"]
    return f"{HEAD}\n{markdown_table(head, rows)}\n"


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text(table())
