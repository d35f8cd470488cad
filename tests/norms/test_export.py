"""A norm costs nothing in an exported model: no more nodes than with torch's norm, and the numbers of the model."""

import collections
import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.testing import assert_close

from src.norms import NORMS, BatchNorm2d, LayerNorm, swap_norms
from tests.norms.conform.folding import operations_on_input


class Maps(nn.Module):
    """A norm after each layer into which a batch norm folds, and one before a convolution, which cannot take it."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        self.depthwise = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8, padding=1), nn.BatchNorm2d(8, affine=False))
        self.transposed = nn.Sequential(nn.ConvTranspose2d(8, 4, 4, 2), nn.BatchNorm2d(4), nn.Hardswish())
        self.before = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 1, bias=False))
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        x = self.plain(x)
        return self.head(self.before(self.transposed(x + self.depthwise(x))))


def convolution() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())


def tracked() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4, affine=True, track_running_stats=True), nn.ReLU())


def tokens() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 6), nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 6), nn.LayerNorm(6, bias=False))


@dataclass
class Example:
    """A model with torch's norms, the kind of norm that it gets, and the shape of its input."""

    build: Callable[[], nn.Module]
    kind: str
    shape: tuple[int, ...]


IMAGES, TOKENS = (2, 3, 12, 12), (2, 7, 8)
CONVOLUTION = Example(convolution, "BatchNorm", IMAGES)
TRACKED = Example(tracked, "InstanceNorm", IMAGES)
EXAMPLES = {
    "batch norm, maps": Example(Maps, "BatchNorm", IMAGES),
    "batch norm, tokens": Example(tokens, "BatchNorm", TOKENS),
    "layer norm, maps": Example(convolution, "LayerNorm", IMAGES),
    "layer norm, tokens": Example(tokens, "LayerNorm", TOKENS),
}


def randomize(model: nn.Module) -> nn.Module:
    """The model in eval, with norms that have seen data."""
    generator = torch.Generator().manual_seed(0)
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point() and tensor.ndim == 1:
            tensor.data.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return model.eval()


def pair(example: Example) -> tuple[nn.Module, nn.Module]:
    """The same model with our norms and with torch's."""
    torch.manual_seed(0)
    ours = example.build().eval()
    theirs = copy.deepcopy(ours)
    swap_norms(ours, NORMS[example.kind])
    swap_norms(theirs, NORMS[f"Torch{example.kind}"])
    return randomize(ours), randomize(theirs)


def export_to_onnx(model: nn.Module, x: Tensor) -> torch.onnx.ONNXProgram:
    program = torch.onnx.export(model, (x,), dynamo=True, dynamic_shapes=({0: Dim("batch")},), verbose=False)
    assert program is not None
    return program


def nodes(file: Path) -> collections.Counter[str]:
    return collections.Counter(node.op_type for node in onnx.load(str(file)).graph.node)


def run(file: Path, x: Tensor, optimized: Path) -> Tensor:
    """The output of ONNX Runtime, which writes the graph that it runs to a file."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # it warns that an optimized graph fits one machine
    options.optimized_model_filepath = str(optimized)
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    (name,) = (i.name for i in session.get_inputs())
    return torch.from_numpy(session.run(None, {name: x.numpy()})[0])


@pytest.mark.parametrize("name", EXAMPLES)
def test_onnx(name: str, tmp_path: Path) -> None:
    example = EXAMPLES[name]
    x = torch.randn(example.shape, generator=torch.Generator().manual_seed(1))
    written, ran = [], []
    for number, model in enumerate(pair(example)):
        file, optimized = tmp_path / f"{number}.onnx", tmp_path / f"{number}_optimized.onnx"
        program = export_to_onnx(model, x)
        program.save(file)
        for batch in (x, torch.cat([x, x + 1])):
            expected = model(batch).detach()
            assert_close(run(file, batch, optimized), expected, rtol=1e-4, atol=1e-5)
            recorded = program.exported_program.module()(batch).detach()
            assert_close(recorded, expected, rtol=1e-4, atol=1e-5)
        written.append(nodes(file))
        ran.append(nodes(optimized))
    assert written[0].total() <= written[1].total(), f"in the file: {written}"
    assert ran[0].total() <= ran[1].total(), f"in ONNX Runtime: {ran}"


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("example", [CONVOLUTION, TRACKED], ids=["batch norm", "instance norm"])
def test_export_as_scale_and_shift(example: Example, strict: bool) -> None:
    """torch.export records one multiplication and one addition; the rest can be computed before any input is there."""
    ours, _ = pair(example)
    x = torch.randn(IMAGES, generator=torch.Generator().manual_seed(1))
    program = torch.export.export(ours, (x,), strict=strict)
    assert operations_on_input(program) == ["conv2d", "mul.Tensor", "add.Tensor", "relu"]
    assert_close(program.module()(x), ours(x), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings(
    "ignore:.torch.jit.:DeprecationWarning", "ignore:Converting a tensor to a Python:torch.jit.TracerWarning"
)
def test_jit_folds_a_trace() -> None:
    """torch.jit.freeze folds a traced batch norm into the convolution before it."""
    ours, _ = pair(CONVOLUTION)
    x = torch.randn(IMAGES, generator=torch.Generator().manual_seed(1))
    frozen = torch.jit.freeze(torch.jit.trace(ours, x))
    kinds = [node.kind() for node in frozen.graph.nodes() if node.kind() != "prim::Constant"]
    assert kinds == ["aten::_convolution", "aten::relu"]
    assert_close(frozen(x), ours(x), rtol=1e-4, atol=1e-5)


def test_half_precision_is_widened() -> None:
    """An exported batch norm of a half type computes in float32, as it does outside of a program."""
    layer = BatchNorm2d(3).bfloat16().eval()
    layer.running_mean.fill_(100)
    x = (torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(1)) + 100).bfloat16()
    program = torch.export.export(layer, (x,))
    assert_close(program.module()(x), layer(x), rtol=1e-2, atol=1e-2)


def test_compiled_eval_subtracts_first() -> None:
    """Only an export multiplies before it subtracts: torch.compile keeps the digits of data with a large offset."""
    layer = BatchNorm2d(3).eval()
    layer.running_mean.fill_(1e4)
    x = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(1)) + 1e4
    torch._dynamo.reset()
    exact = (x.double() - 1e4) * (1 + layer.eps) ** -0.5
    for call in (layer, torch.compile(layer, backend="aot_eager", fullgraph=True)):
        assert_close(call(x).double(), exact, rtol=1e-6, atol=1e-6)


def test_layer_norm_over_several_dimensions(tmp_path: Path) -> None:
    layer = randomize(LayerNorm((3, 4)))
    x = torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(1))
    export_to_onnx(layer, x).save(tmp_path / "file.onnx")
    assert nodes(tmp_path / "file.onnx") == {"LayerNormalization": 1}
    assert_close(run(tmp_path / "file.onnx", x, tmp_path / "optimized.onnx"), layer(x).detach(), rtol=1e-4, atol=1e-5)
