"""Cases for a layer: from PyTorch's own databases, and for the families a few shapes of both layouts."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from tests.norms.conform.databases import function_info, module_info

MAPS = (3, 64, 2, 3)
TOKENS = (3, 5, 64)
NUM_FEATURES = 64  # the default number of groups of GroupNorm, twice


@dataclass(frozen=True)
class Case:
    """A layer's arguments, an input for it, and its state before the call."""

    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    input: Tensor
    training: bool | None = None  # None: both are tried
    state: Mapping[str, Tensor | None] = field(default_factory=dict)

    def build(self, make: Callable[..., nn.Module], dtype: torch.dtype, training: bool = True) -> nn.Module:
        """The layer, with parameters and running statistics that differ from the initial ones."""
        layer = make(*self.args, **self.kwargs, dtype=dtype)
        random = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name, tensor in (*layer.named_parameters(), *layer.named_buffers()):
                if tensor.is_floating_point():
                    value = torch.rand(tensor.shape, generator=random, dtype=torch.float64) + 0.5
                    tensor.copy_(value if name == "running_var" else value - 0.75)
        for name, value in self.state.items():
            value = None if value is None else value.to(dtype)
            if name in layer._parameters:
                layer.register_parameter(name, None if value is None else nn.Parameter(value.clone()))
            else:
                layer.register_buffer(name, None if value is None else value.clone())
        return layer.train(training)

    def modes(self) -> tuple[bool, ...]:
        return (True, False) if self.training is None else (self.training,)


def family_cases(channel_dim: int) -> list[Case]:
    random = torch.Generator().manual_seed(1)
    shapes = [MAPS] if channel_dim == 1 else [TOKENS, (2, 3, 2, NUM_FEATURES)]
    return [
        Case(str(shape), (NUM_FEATURES, channel_dim), {}, torch.randn(shape, generator=random, dtype=torch.float64) + 1)
        for shape in shapes
    ]


@cache
def drop_in_cases(name: str) -> tuple[Case, ...]:
    """The cases of `torch.nn.<name>` in float64, from the databases of modules and of functions."""
    return *_from_modules(name), *_from_functions(name)


def _from_modules(name: str) -> Iterator[Case]:
    info = module_info(name)
    torch.manual_seed(0)
    inputs = info.module_inputs_func(info, device="cpu", dtype=torch.float64, requires_grad=False, training=True)
    for number, found in enumerate(inputs):
        arguments = found.constructor_input
        (x,) = found.forward_input.args
        yield Case(f"module {number} {found.desc}".strip(), arguments.args, arguments.kwargs, x)


FUNCTIONS = {
    "BatchNorm": "batch_norm",
    "InstanceNorm": "instance_norm",
    "GroupNorm": "group_norm",
    "LayerNorm": "layer_norm",
    "RMSNorm": "rms_norm",
}


def _from_functions(name: str) -> Iterator[Case]:
    """The function's samples, as a module that has the sample's weight, bias and statistics."""
    kind = name.rstrip("123d")
    ranks = {"1d": (2, 3), "2d": (4,), "3d": (5,)}.get(name[-2:])
    torch.manual_seed(0)
    for number, sample in enumerate(function_info(FUNCTIONS[kind]).sample_inputs("cpu", torch.float64)):
        if ranks is None or sample.input.ndim in ranks:
            yield _as_module(f"function {number}", kind, sample.input, sample.args, sample.kwargs)


PARAMETERS = {
    "BatchNorm": ("running_mean", "running_var", "weight", "bias", "training", "momentum", "eps"),
    "InstanceNorm": ("running_mean", "running_var", "weight", "bias", "use_input_stats", "momentum", "eps"),
    "GroupNorm": ("num_groups", "weight", "bias", "eps"),
    "LayerNorm": ("normalized_shape", "weight", "bias", "eps"),
    "RMSNorm": ("normalized_shape", "weight", "eps"),
}


def _as_module(name: str, kind: str, x: Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Case:
    given = {**dict(zip(PARAMETERS[kind], args, strict=False)), **kwargs}
    states = ("running_mean", "running_var", "weight", "bias")
    state = {key: given.pop(key, None) for key in states if key in PARAMETERS[kind]}
    training = given.pop("training", False) if kind == "BatchNorm" else given.pop("use_input_stats", True)
    if kind in ("BatchNorm", "InstanceNorm"):
        given |= {"num_features": x.shape[1], "affine": True, "track_running_stats": True}
    elif kind == "GroupNorm":
        given["num_channels"] = x.shape[1]
    return Case(name, (), given, x, bool(training), {k: None if v is None else v.detach() for k, v in state.items()})
