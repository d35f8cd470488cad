"""The Triton kernels compiled for a GPU, on a machine with or without a GPU.

test_triton.py runs these tests in a separate process. The tests call the layers as usual. A driver that always reports
one H100 replaces Triton's driver, which asks the machine. Kernels are compiled, but not launched. This command prints a
table of the results:

    LIGHTNING_NORMS_KERNELS=triton python -m tests.norms.triton_compiled
"""

import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import triton
from torch import nn
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from src import norms
from src.norms.kernels import gpu, triton_lines, triton_tiles

H100 = GPUTarget("cuda", 90, 32)
PROCESSORS = 132
CHANNELS_LAST = torch.channels_last


@dataclass(frozen=True)
class Model:
    """A layer as it occurs in models, and the shape of its input."""

    layer: Callable[[], nn.Module]
    shape: tuple[int, ...]
    memory_format: torch.memory_format = torch.contiguous_format
    is_slow: bool = True

    @property
    def name(self) -> str:
        order = " channels last" if self.memory_format == CHANNELS_LAST else ""
        return f"{type(self.layer()).__name__} {self.shape}{order}"


MODELS = (
    Model(lambda: norms.LayerNorm(768), (8192, 768), is_slow=False),
    Model(lambda: norms.LayerNorm(1024), (8192, 1024)),
    Model(lambda: norms.RMSNorm(4096), (4096, 4096)),
    Model(lambda: norms.LayerNorm(16384), (512, 16384)),
    Model(lambda: norms.LayerNorm(20000), (512, 20000), is_slow=False),
    Model(lambda: norms.GroupNorm(32, 256), (32, 256, 28, 28)),
    Model(lambda: norms.GroupNorm(32, 256), (4, 256, 128, 128)),
    Model(lambda: norms.InstanceNorm2d(64, affine=True), (8, 64, 32, 32)),
    Model(lambda: norms.BatchNorm2d(64), (64, 64, 56, 56)),
    Model(lambda: norms.BatchNorm2d(2048), (64, 2048, 7, 7)),
    Model(lambda: norms.BatchNorm2d(64), (64, 64, 56, 56), CHANNELS_LAST, is_slow=False),
    Model(lambda: norms.BatchNorm2d(2048), (64, 2048, 7, 7), CHANNELS_LAST),
    Model(lambda: norms.BatchNorm1d(512), (256, 512)),
)


class Driver:
    """A driver that reports an H100 to the compiler."""

    def get_current_target(self) -> GPUTarget:
        return H100

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


@contextmanager
def compiling() -> Iterator[dict[str, Any]]:
    """Compile kernels instead of launching them, inside the block; yield the compiled kernels by name."""
    compiled: dict[str, Any] = {}
    run = JITFunction.run

    def compile(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        compiled[self.__name__] = run(self, *args, grid=grid, warmup=True, **options)

    triton.runtime.driver.set_active(Driver())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JITFunction, "run", compile)
        patch.setattr(gpu, "_available", lambda device: True)
        patch.setattr(gpu, "_processors", lambda device: PROCESSORS)
        yield compiled


def compile_all(model: Model, dtype: torch.dtype) -> dict[str, Any]:
    """The kernels of a forward and a backward pass in training and in eval."""
    layer = model.layer().to(dtype)
    x = torch.empty(model.shape, dtype=dtype).contiguous(memory_format=model.memory_format).requires_grad_()
    with compiling() as compiled:
        for training in (True, False):
            y = layer.train(training)(x)
            y.backward(torch.empty_like(y))
    return compiled


def registers_and_spills(kernel: Any) -> tuple[int, int]:
    """The registers of a thread, and the bytes that do not fit into the registers, from the output of the assembler."""
    with tempfile.TemporaryDirectory() as folder:
        ptx = Path(folder) / "kernel.ptx"
        ptx.write_text(kernel.asm["ptx"])
        # The same command as in Triton.
        assembler = [triton.knobs.nvidia.ptxas_blackwell.path, "-v", "--regAllocOptLevel=2", "--gpu-name=sm_90a"]
        said = subprocess.run(
            [*assembler, str(ptx), "-o", f"{ptx}.o"], capture_output=True, text=True, check=True
        ).stderr
    found = [re.search(pattern, said) for pattern in (r"Used (\d+) registers", r"(\d+) bytes spill stores")]
    assert all(found), said
    registers, spilled = (int(match[1]) for match in found if match)
    return registers, spilled


def widest_load(kernel: Any) -> int:
    """The largest number of bytes that a thread loads at once."""
    loads = re.findall(r"ld\.global(?:\.v(\d))?\.b(\d+)", kernel.asm["ptx"])
    return max(int(count or 1) * int(bits) // 8 for count, bits in loads)


SEEN: set[str] = set()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    "model", [pytest.param(m, id=m.name, marks=pytest.mark.slow if m.is_slow else ()) for m in MODELS]
)
def test_compiles(model: Model, dtype: torch.dtype) -> None:
    """The machine code keeps its values in registers, and loads 16 bytes at once where rows allow it."""
    compiled = compile_all(model, dtype)
    SEEN.update(compiled)
    for name, kernel in compiled.items():
        assert kernel.asm["cubin"], name
        registers, spilled = registers_and_spills(kernel)
        assert spilled <= 16, f"{name}: {spilled} bytes spilled beside {registers} registers"
        if model.shape[-1] != 7 and not name.startswith("merge"):
            assert widest_load(kernel) == 16, name


def test_every_kernel_was_compiled() -> None:
    kernels = {
        name
        for module in (triton_tiles, triton_lines)
        for name, value in vars(module).items()
        if isinstance(value, JITFunction) and name.startswith(("tile_", "line_", "merge_", "value_"))
    }
    assert kernels == SEEN


if __name__ == "__main__":
    for model in MODELS:
        for dtype in (torch.float32, torch.bfloat16):
            for name, kernel in compile_all(model, dtype).items():
                registers, spilled = registers_and_spills(kernel)
                warps, shared = kernel.metadata.num_warps, kernel.metadata.shared
                print(
                    f"{model.name:42s} {str(dtype)[6:]:9s} {name:15s} {warps:2d} warps, {registers:3d} registers, "
                    f"{spilled} bytes spilled, {shared:5d} bytes shared, {widest_load(kernel):2d} bytes a load"
                )
