"""The Triton kernels in Triton's interpreter, compiled without a GPU, and on a GPU.

The interpreter and the compiler run in separate processes.
"""

import copy
import os
import subprocess
import sys

import pytest
import torch

from src import norms
from tests.helpers.train_command import REPOSITORY
from tests.helpers.triton_cases import CASES, DTYPES, Case, answers, is_right, launches, layers


def in_a_process(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "LIGHTNING_NORMS_KERNELS": "triton", **environment}
    return subprocess.run([sys.executable, *arguments], cwd=REPOSITORY, env=variables, capture_output=True, text=True)


def run_tests(file: str, marked: str, **environment: str) -> None:
    pytest.importorskip("triton")
    found = in_a_process(
        *("-m", "pytest", "-o", "addopts=", "-p", "no:xdist", "-q", "-m", marked, f"tests/norms/{file}"), **environment
    )
    assert found.returncode == 0, found.stdout + found.stderr


def test_the_interpreter_computes_what_is_right() -> None:
    run_tests("triton_interpreted.py", "not slow", TRITON_INTERPRET="1")


def test_the_compiler_makes_code_for_a_gpu() -> None:
    run_tests("triton_compiled.py", "not slow")


@pytest.mark.slow
def test_all_that_the_interpreter_computes_is_right() -> None:
    run_tests("triton_interpreted.py", "slow", TRITON_INTERPRET="1")


@pytest.mark.slow
def test_the_compiler_makes_code_for_more_layers() -> None:
    run_tests("triton_compiled.py", "slow")


LAYER = "import torch; from src.norms import LayerNorm; print(LayerNorm(8)(torch.arange(16.0).reshape(2, 8)).sum())"


def test_triton_on_cpu_without_the_interpreter_is_an_error() -> None:
    pytest.importorskip("triton")
    found = in_a_process("-c", LAYER, TRITON_INTERPRET="0")
    assert found.stderr.splitlines()[-1] == (
        "ValueError: LIGHTNING_NORMS_KERNELS=triton: expected a tensor on a GPU, got one on cpu; set "
        "TRITON_INTERPRET=1 to run Triton's kernels there, or LIGHTNING_NORMS_KERNELS=auto"
    )


def test_without_triton_one_line_says_so() -> None:
    absent = f"import sys; sys.modules['triton'] = None; {LAYER}; {LAYER}"
    found = in_a_process("-c", absent)
    assert found.returncode == 0, found.stderr
    (line,) = (line for line in found.stderr.splitlines() if "Norms run on torch's operations" in line)
    assert "ModuleNotFoundError: import of triton halted" in line


def test_triton_is_not_imported_without_need() -> None:
    found = in_a_process("-c", f"{LAYER}; import sys; print('triton' in sys.modules)", LIGHTNING_NORMS_KERNELS="auto")
    assert found.stdout.splitlines()[-1] == "False", found.stderr


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
class TestOnAGPU:
    @pytest.mark.parametrize("offset", [0, 1000])
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
    def test_is_right(self, case: Case, dtype: torch.dtype, offset: float) -> None:
        is_right(case, dtype, "cuda", offset)

    @pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
    def test_repeats_itself(self, case: Case) -> None:
        """The kernels are deterministic: two runs give the same bits."""
        ours, _ = layers(case, torch.float32, "cuda")
        x = case.input(1).to("cuda")
        first, second = answers(copy.deepcopy(ours), x), answers(ours, x)
        for name, value in first.items():
            assert torch.equal(value, second[name]), name

    @pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
    def test_autocast(self, case: Case) -> None:
        """A half-precision input with float32 parameters gives the types and values of torch's layer."""
        ours, theirs = layers(case, torch.float32, "cuda")
        x = case.input(1).to("cuda", torch.bfloat16)
        with launches() as started, torch.autocast("cuda", torch.bfloat16):
            found = answers(ours, x)
        assert started == case.kernels
        with torch.autocast("cuda", torch.bfloat16):
            expected = answers(theirs, x)
        for name, value in found.items():
            assert value.dtype == expected[name].dtype, name
            torch.testing.assert_close(value, expected[name], rtol=2e-2, atol=2e-2 * expected[name].abs().max().item())

    def test_without_synchronization(self) -> None:
        layer, x = norms.BatchNorm2d(64).cuda(), torch.randn(8, 64, 56, 56, device="cuda", requires_grad=True)
        layer(x).sum().backward()
        torch.cuda.set_sync_debug_mode("error")
        try:
            layer(x).sum().backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")
