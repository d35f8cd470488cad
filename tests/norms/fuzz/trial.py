"""A trial: a layer, its input and what is done with them, drawn at random and printed as Python code."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import ModuleType
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

import src.norms
from src.norms.family import NormSite
from tests.norms.conform.subjects import DROP_INS
from tests.norms.fuzz.exact import Norm
from tests.norms.fuzz.layout import CONTIGUOUS, Layout, layouts

FAMILIES = ("BatchNorm", "LayerNorm", "RMSNorm", "GroupNorm", "InstanceNorm")
NORMS = (*DROP_INS, *(f"{name} {layout}" for name in FAMILIES for layout in ("(N, C, *)", "(..., D)")))
DTYPES = ("float64", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Trial:
    """A layer of ours beside torch's, an input, and a call in each mode.

    Args:
        norm: a drop-in class, or a family with the layout of its layer.
        options: of the constructor, or of the place in a model for which a family builds its layer.
        shape, layout: of the input.
        gradient: the layout of the output's gradient; None: that of the output.
        dtype, parameter_dtype: of the input, and of parameters and buffers.
        parameters: the layout of each parameter and buffer, by name; the others are contiguous.
        offset, scale: mean and standard deviation of the input.
        modes: True for a call in training, False for one in eval.
        differentiated: the tensors that require a gradient: "input", "weight", "bias".
        seed: of all values.
    """

    norm: str
    options: Mapping[str, Any]
    shape: tuple[int, ...]
    layout: Layout = CONTIGUOUS
    gradient: Layout | None = None
    dtype: str = "float32"
    parameter_dtype: str = "float32"
    parameters: Mapping[str, Layout] = field(default_factory=dict)
    offset: float = 0.0
    scale: float = 1.0
    modes: tuple[bool, ...] = (True,)
    differentiated: tuple[str, ...] = ("input", "weight", "bias")
    seed: int = 0

    @cached_property
    def family(self) -> str:
        return self.norm.split()[0].rstrip("123d")

    @cached_property
    def is_drop_in(self) -> bool:
        return " " not in self.norm

    def random(self, number: int) -> torch.Generator:
        return torch.Generator().manual_seed(1000 * self.seed + number)

    def input(self, step: int) -> Tensor:
        """The input of a call, in float64, with values that its type can represent."""
        values = torch.randn(self.shape, generator=self.random(step), dtype=torch.float64)
        return (values * self.scale + self.offset).to(getattr(torch, self.dtype))

    def output_gradient(self, y: Tensor, step: int) -> Tensor:
        values = torch.randn(y.shape, generator=self.random(step + 100), dtype=torch.float64).to(y.dtype)
        return torch.empty_like(y).copy_(values) if self.gradient is None else self.gradient.place(values)

    def build(self, ours: bool, norms: ModuleType = src.norms) -> nn.Module:
        """The layer, ours or torch's, with random parameters and running statistics."""
        dtype = getattr(torch, self.parameter_dtype)
        if self.is_drop_in:
            layer = getattr(norms if ours else nn, self.norm)(**self.options, dtype=dtype)
        else:
            options = dict(self.options)
            groups = {"num_groups": options.pop("num_groups")} if "num_groups" in options else {}
            family = type(norms.NORMS[self.family if ours else f"Torch{self.family}"])(**groups)
            layer = family.build(NormSite(**options)).to(dtype)
        for number, (name, tensor) in enumerate((*layer.named_parameters(), *layer.named_buffers())):
            if not tensor.is_floating_point():
                continue
            values = torch.rand(tensor.shape, generator=self.random(200 + number), dtype=torch.float64) + 0.5
            values = (values if name == "running_var" else values - 1).to(dtype)
            placed = self.parameters.get(name, CONTIGUOUS).place(values)
            if name in layer._parameters:
                layer.register_parameter(name, nn.Parameter(placed, requires_grad=name in self.differentiated))
            else:
                layer.register_buffer(name, placed)
        return layer

    def exactly(self, layer: nn.Module) -> Norm:
        """The norm that `layer` computes, for the computation in extended precision."""
        sampled = self.is_drop_in and self.family == "InstanceNorm"
        channel_dim = -1 if self.norm in ("LayerNorm", "RMSNorm") or self.norm.endswith("(..., D)") else 1
        return Norm(
            self.family,
            channel_dim,
            num_dims=len(getattr(layer, "normalized_shape", (1,))),
            num_groups=getattr(layer, "num_groups", 1),
            unbatched=sampled and len(self.shape) == int(self.norm[-2]) + 1,
        )


RANKS = {
    "BatchNorm1d": (2, 3),
    "BatchNorm2d": (4, 4),
    "BatchNorm3d": (5, 5),
    "InstanceNorm1d": (2, 3),
    "InstanceNorm2d": (3, 4),
    "InstanceNorm3d": (4, 5),
    "GroupNorm": (2, 5),
    "LayerNorm": (1, 5),
    "RMSNorm": (1, 5),
}
LARGEST = 4000  # values of an input


@st.composite
def shapes(draw: st.DrawFn, rank: int) -> tuple[int, ...]:
    """A shape with small sizes, and a large one here and there: kernels read 16 values or rows of 256 at once."""
    small = st.sampled_from((1, 2, 3, 4, 5, 7))
    sizes = [draw(small) for _ in range(rank)]
    if draw(st.integers(0, 2)) == 0:
        dim, size = draw(st.integers(0, rank - 1)), draw(st.sampled_from((0, 16, 17, 40, 130, 300)))
        sizes[dim] = size
    while torch.Size(sizes).numel() > LARGEST:
        sizes[sizes.index(max(sizes))] //= 2
    return tuple(sizes)


@st.composite
def trials(draw: st.DrawFn, dtypes: tuple[str, ...] = DTYPES) -> Trial:
    norm = draw(st.sampled_from(NORMS))
    family, drop_in = norm.split()[0].rstrip("123d"), " " not in norm
    low, high = RANKS.get(norm, (2, 5) if norm.endswith("(N, C, *)") else (3 if family == "InstanceNorm" else 2, 4))
    shape = draw(shapes(draw(st.integers(low, high))))
    tokens = norm.endswith("(..., D)")
    unbatched = drop_in and family == "InstanceNorm" and len(shape) == low
    channels = shape[-1 if tokens else 0 if unbatched else 1] if len(shape) > 1 else shape[0]
    if drop_in and draw(st.integers(0, 20)) == 0:
        channels = draw(st.integers(1, 6))  # an error

    eps = draw(st.sampled_from((1e-5, 1e-3, 1e-8, 1.0)))
    options: dict[str, Any] = {"eps": eps}
    if not drop_in:
        options |= {"num_features": channels, "channel_dim": -1 if tokens else 1}
        options |= {"affine": draw(st.booleans()), "bias": draw(st.booleans())}
        if family == "BatchNorm":
            options["momentum"] = draw(st.sampled_from((0.1, 0.9, None)))
    elif family in ("LayerNorm", "RMSNorm"):
        count = draw(st.integers(1, min(3, len(shape))))
        options["normalized_shape"] = shape[-count:]
        options["elementwise_affine"] = draw(st.booleans())
        if family == "LayerNorm":
            options["bias"] = draw(st.booleans())
        elif draw(st.booleans()):
            options["eps"] = None
    elif family == "GroupNorm":
        options |= {"num_channels": channels, "affine": draw(st.booleans())}
    else:
        options |= {"num_features": channels, "affine": draw(st.booleans())}
        options["track_running_stats"] = draw(st.booleans())
        options["momentum"] = draw(st.sampled_from((0.1, 0.9, 1.0, None)))
    if family == "GroupNorm":
        fitting = [number for number in range(1, max(channels, 1) + 1) if channels % number == 0]
        options["num_groups"] = draw(st.sampled_from(fitting))

    dtype = draw(st.sampled_from(dtypes))
    half = dtype in ("bfloat16", "float16")
    parameter_dtype = draw(st.sampled_from((dtype, "float32") if half else (dtype,)))
    if draw(st.integers(0, 30)) == 0:
        parameter_dtype = draw(st.sampled_from(dtypes))
    parameters = {}
    for name in ("weight", "bias", "running_mean", "running_var"):
        if draw(st.integers(0, 5)) == 0:
            rank = len(options.get("normalized_shape", (1,)))
            parameters[name] = draw(layouts(rank, expands=not name.startswith("running")))
    return Trial(
        norm,
        options,
        shape,
        draw(layouts(len(shape))),
        draw(st.none() | layouts(len(shape)) | st.just(Layout(expanded=tuple(range(len(shape)))))),
        dtype,
        parameter_dtype,
        parameters,
        draw(st.sampled_from((0.0, 0.0, 1e2, 1e4))),
        draw(st.sampled_from((1.0, 1.0, 1e-3, 30.0, 0.0))),
        draw(st.sampled_from(((True,), (False,), (True, False), (True, True, False)))),
        tuple(name for name in ("input", "weight", "bias") if draw(st.integers(0, 4))),
        draw(st.integers(0, 1000)),
    )
