"""The Triton kernels in Triton's interpreter, on CPU. test_triton.py runs these tests in a separate process.

LIGHTNING_NORMS_KERNELS=triton TRITON_INTERPRET=1 pytest -p no:xdist -o addopts= tests/norms/triton_interpreted.py
"""

import pytest
import torch
from torch import nn

from src.norms import NORMS
from src.norms.elementwise import Elementwise
from tests.helpers.triton_cases import CASES, DTYPES, Case, is_right
from tests.norms.conform import CHECKS, Check, Subject, subjects

KERNELS_OF = ("BatchNorm", "LayerNorm", "RMSNorm", "GroupNorm", "InstanceNorm")
# All others are slow tests, which take minutes: the interpreter is a thousand times slower than a kernel.
QUICK_SUBJECTS = ("BatchNorm2d", "RMSNorm", "InstanceNorm2d")
QUICK_CHECKS = ("precision_in_bfloat16", "offset_data", "offset_statistics")


def is_quick(case: Case, dtype: torch.dtype, offset: float) -> bool:
    if offset:
        return dtype == torch.float32
    return dtype == torch.bfloat16 or (dtype == torch.float32 and not case.is_long)


@pytest.mark.parametrize(
    ("case", "dtype", "offset"),
    [
        pytest.param(
            *(case, dtype, offset),
            id=f"{case.name}-{dtype}-{offset}",
            marks=() if is_quick(case, dtype, offset) else pytest.mark.slow,
        )
        for case in CASES
        for dtype in DTYPES
        for offset in (0, 1000)
    ],
)
def test_is_right(case: Case, dtype: torch.dtype, offset: float) -> None:
    is_right(case, dtype, "cpu", offset)


@pytest.mark.parametrize(
    ("subject", "check"),
    [
        pytest.param(
            *(subject, check),
            id=f"{subject.name}-{check.name}",
            marks=() if subject.name in QUICK_SUBJECTS and check.name in QUICK_CHECKS else pytest.mark.slow,
        )
        for subject in subjects(KERNELS_OF)
        for check in CHECKS.values()
        if check.applies(subject)
    ],
)
def test_conforms(subject: Subject, check: Check) -> None:
    check.run(subject)


def test_all_norms_that_take_statistics_are_here() -> None:
    without = (Elementwise, nn.Identity)
    ours = {name: norm for name, norm in NORMS.items() if not name.startswith("Torch")}
    assert set(KERNELS_OF) == {name for name, norm in ours.items() if not issubclass(norm.on_maps, without)}
