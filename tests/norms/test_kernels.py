"""The right kernel runs and agrees with the formula; without a kernel, the norms still work."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing._internal.two_tensor import TwoTensor

from src import norms
from src.norms.kernels import build, cpu
from src.norms.kernels import setting as settings
from src.norms.kernels.arrangement import arrange
from src.norms.kernels.setting import setting, use_kernels
from tests.helpers.errors import error_is
from tests.helpers.train_command import REPOSITORY

CL = torch.channels_last


@pytest.mark.parametrize(
    ("layer", "x", "kernel"),
    [
        (norms.BatchNorm2d(40), torch.randn(6, 40, 17, 17), "channels"),
        (norms.BatchNorm2d(40), torch.randn(6, 40, 3, 5), "channels"),
        (norms.BatchNorm2d(40), torch.randn(6, 40, 3, 5).contiguous(memory_format=CL), "columns"),
        (norms.BatchNorm1d(1030), torch.randn(70, 1030), "columns"),
        (norms.LayerNorm(300), torch.randn(70, 300), "runs"),
        (norms.LayerNorm(300, bias=False), torch.randn(70, 300), "runs"),
        (norms.RMSNorm(300), torch.randn(7, 10, 300), "runs"),
        (norms.GroupNorm(4, 12), torch.randn(5, 12, 9, 5), "runs"),
        (norms.GroupNorm(4, 12), torch.randn(5, 12), "runs"),
        (norms.GroupNorm(4, 40), torch.randn(5, 40, 9, 5).contiguous(memory_format=CL), "groups"),
        (norms.GroupNorm(4, 40, affine=False), torch.randn(5, 40, 9, 5).contiguous(memory_format=CL), "groups"),
        (norms.InstanceNorm2d(12, affine=True), torch.randn(5, 12, 9, 5), "runs"),
        (norms.NORMS["LayerNorm"](40, channel_dim=1), torch.randn(6, 40, 3, 5).contiguous(memory_format=CL), "runs"),
    ],
    ids=lambda value: str(tuple(value.shape)) if isinstance(value, Tensor) else str(value),
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_kernel_computes_the_formula(
    layer: nn.Module, x: Tensor, kernel: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The expected kernel runs and agrees with the formula, on one thread and on three threads."""
    called: list[str] = []
    library = build.load()
    assert library is not None, "the machine that tests has a compiler"

    class Spy:
        def __getattr__(self, name: str) -> object:
            called.append(name)
            return getattr(library, name)

    monkeypatch.setattr(cpu, "load", Spy)
    cpu._calls.cache_clear()
    threads = torch.get_num_threads()
    found = []
    for num_threads, flag in ((1, True), (3, True), (1, False)):
        torch.set_num_threads(num_threads)
        with use_kernels(flag):
            twin = copy.deepcopy(layer).to(dtype)
            given = (x * 3 + 1).to(dtype).requires_grad_()
            y = twin(given)
            torch.manual_seed(0)
            gradients = torch.autograd.grad(y, [given, *twin.parameters()], torch.randn_like(y))
            in_eval = twin.eval()(given)
            found.append([y.detach(), in_eval.detach(), *gradients, *twin.buffers()])
    torch.set_num_threads(threads)
    cpu._calls.cache_clear()
    assert {f"{kernel}_forward_{str(dtype)[6:]}", f"{kernel}_backward_{str(dtype)[6:]}"} <= set(called)
    unit = torch.finfo(dtype).eps
    for values in found[:2]:
        for value, expected in zip(values, found[2], strict=True):
            size = expected.abs().max().item()
            torch.testing.assert_close(value, expected, rtol=0, atol=8 * unit * max(size, 1))


def test_what_no_kernel_reads_in_order_is_left_to_the_formula() -> None:
    """`arrange` returns None for an input that no kernel can read; the formula then computes the norm."""
    x = torch.empty(4, 6, 5, 3)
    assert arrange(x.shape, x.stride(), (1,), (6, 1, 1)) is None
    assert arrange(x.shape, x[..., ::2].stride(), (0, 2, 3), (6, 1, 1)) is None
    assert arrange((0, 6), (6, 1), (0,), (6,)) is None
    assert arrange(x.shape, (90, 1, 18, 6), (1, 2, 3), (6, 5, 3)) is None  # the weights lie in another order
    assert arrange(x.shape, (90, 1, 18, 6), (3,), None) is None  # the means lie in another order


def test_what_varies_with_no_channel_is_left_to_the_formula() -> None:
    """A kernel would read a weight for each channel where there is one weight for all."""
    x = torch.empty(4, 6, 5, 3)
    assert arrange(x.shape, x.stride(), (0, 2, 3), (1, 1, 1)) is None
    last = (4, 5, 2, 3)
    assert arrange(last, (30, 6, 3, 1), (1, 3), (1,)) is None
    assert arrange(last, (30, 6, 3, 1), (1, 3), (3,)) is None


def test_a_normalized_shape_on_a_channels_last_map() -> None:
    x = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)).to(memory_format=CL)
    ours, theirs = norms.RMSNorm((3, 4, 5)), nn.RMSNorm((3, 4, 5))
    for layer in (ours, theirs):
        nn.init._no_grad_uniform_(layer.weight, 0, 1, torch.Generator().manual_seed(1))
    torch.testing.assert_close(ours(x), theirs(x))


def test_a_negative_view_is_read_with_its_sign() -> None:
    """The imaginary part of a conjugate has the sign of its values in its dispatch key, not in memory."""
    x = torch.full((1, 1), 1 + 1j).conj().imag
    assert x.is_contiguous()
    assert x.is_neg()
    torch.testing.assert_close(norms.RMSNorm(1)(x), nn.RMSNorm(1)(x))


def test_a_gradient_without_memory_of_its_own() -> None:
    """The gradient of the output may be a subclass of a tensor that wraps others, where the input is a tensor."""
    layer, x, dy = norms.LayerNorm(8), torch.randn(2, 8, requires_grad=True), torch.randn(2, 8)
    y = layer(x)
    (expected,) = torch.autograd.grad(y, x, dy, retain_graph=True)
    (found,) = torch.autograd.grad(y, x, TwoTensor(dy, dy))
    torch.testing.assert_close(found.a, expected)


OUTPUT = (
    "import torch; from src.norms import LayerNorm; print(LayerNorm(8)(torch.arange(16.0).reshape(2, 8)).sum().item())"
)


def in_a_process(cache: Path, **environment: str) -> subprocess.Popen[str]:
    variables = {**os.environ, "XDG_CACHE_HOME": str(cache), **environment}
    command = [sys.executable, "-c", OUTPUT]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=REPOSITORY, env=variables, stdout=pipe, stderr=pipe, text=True)


@pytest.mark.slow
def test_processes_that_build_at_once_share_one_library(tmp_path: Path) -> None:
    processes = [in_a_process(tmp_path) for _ in range(3)]
    outputs = {process.communicate()[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len(outputs) == 1
    (library,) = (tmp_path / "lightning-norms").iterdir()
    assert library.suffix == ".so"


@pytest.mark.parametrize(
    ("environment", "why"),
    [
        ({"PATH": "", "CXX": ""}, "no C++ compiler was found"),
        ({"CXX": "false"}, "false failed: "),
        ({"XDG_CACHE_HOME": "/proc/nowhere"}, "No such file or directory: '/proc/nowhere'"),
    ],
    ids=["no compiler", "a compiler that fails", "no cache"],
)
def test_without_a_library_one_line_says_so(environment: dict[str, str], why: str, tmp_path: Path) -> None:
    process = in_a_process(tmp_path, **environment)
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert abs(float(out)) < 1e-5
    lines = [line for line in err.splitlines() if "Norms run on torch's operations" in line]
    assert len(lines) == 1, err
    assert why in lines[0]


def test_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    settings._of_environment.cache_clear()
    monkeypatch.setenv("LIGHTNING_NORMS_KERNELS", "off")
    assert setting() == "off"
    with use_kernels(True):
        assert setting() == "auto"
    assert setting() == "off"
    settings._of_environment.cache_clear()
    monkeypatch.setenv("LIGHTNING_NORMS_KERNELS", "fast")
    with error_is(ValueError, "LIGHTNING_NORMS_KERNELS=fast: expected one of auto, off, triton"):
        norms.LayerNorm(8)(torch.ones(2, 8))


def test_who_records_operations_sees_them() -> None:
    """`make_fx` records a graph that gives the output of the layer."""
    layer = norms.BatchNorm2d(4)
    graph = make_fx(layer.eval())(torch.randn(2, 4, 3, 3))
    x = torch.randn(2, 4, 3, 3)
    torch.testing.assert_close(graph(x), layer(x))
