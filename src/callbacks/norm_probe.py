"""Finds the norms of a model, and measures them with hooks during one training step."""

import inspect
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle

from src.callbacks.norm_measures import eval_gap, l2_norm, moments, over_channels, stuck_share, subsample
from src.norms.padding import ReadsPaddingMask
from src.norms.recognize import Found, examine, family_of, named_norms
from src.norms.running import is_recomputing
from src.norms.sync import Synchronizable

ACTIVATIONS = (
    nn.CELU,
    nn.ELU,
    nn.GELU,
    nn.Hardsigmoid,
    nn.Hardswish,
    nn.Hardtanh,
    nn.LeakyReLU,
    nn.Mish,
    nn.ReLU,
    nn.SELU,
    nn.Sigmoid,
    nn.SiLU,
    nn.Softplus,
    nn.Tanh,
)


@dataclass(frozen=True)
class ProbedNorm:
    """A norm of a model, or the layer that replaced one (DynamicTanh, Identity)."""

    name: str
    layer: nn.Module
    kind: str | None
    channel_dim: int


def find_norms(model: nn.Module) -> list[ProbedNorm]:
    """Each norm (ours, torch's or a library's), and each layer that replaced a norm."""
    norms = []
    for name, layer in named_norms(model):
        family = family_of(layer)
        kind, channel_dim = (family.kind, family.base_channel_dim) if family else (None, -1)
        # A norm that cannot be swapped is measured all the same.
        with suppress(ValueError):
            if isinstance(found := examine(name, layer), Found):
                kind, channel_dim = found.kind or kind, found.site.channel_dim
        norms.append(ProbedNorm(name, layer, kind, channel_dim))
    return norms


def is_activation(module: nn.Module) -> bool:
    """Whether `module` is an elementwise activation of torch or of transformers."""
    return isinstance(module, ACTIVATIONS) or type(module).__module__ == "transformers.activations"


def values_per_statistic(norm: ProbedNorm, x: Tensor) -> int | None:
    """How many values of the norm's input share a mean; None if the norm takes no statistics of its input."""
    layer = norm.layer
    if isinstance(layer, _BatchNorm):
        if not layer.training:
            return None
        peers = layer.peers() if isinstance(layer, Synchronizable) else None
        return x.numel() // x.shape[norm.channel_dim] * (torch.distributed.get_world_size(peers) if peers else 1)
    samples = x.shape[0] if x.ndim > 1 else 1
    if norm.kind == "InstanceNorm":
        return x.numel() // samples // x.shape[norm.channel_dim]
    if isinstance(layer, nn.GroupNorm):
        return (x.numel() // samples if norm.channel_dim == 1 else x.shape[-1]) // layer.num_groups
    if norm.kind == "LayerNorm":
        return math.prod(getattr(layer, "normalized_shape", (x.shape[norm.channel_dim],)))
    return None


class NormProbe:
    """Hooks on the norms of a model for one training step. The measures stay on the device until `read`.

    If a layer runs several times, one run counts: the last one whose input has the shape of the first run's input. In a
    recurrence this is the last step that all texts reach. The first step, whose state is 0, would say little. A forward
    pass that activation checkpointing repeats in the backward pass does not count.

    Args:
        model: the model; if its forward pass takes an `attention_mask`, padding is left out.
        norms: the norms to measure.
    """

    def __init__(self, model: nn.Module, norms: list[ProbedNorm]) -> None:
        self.order: list[ProbedNorm] = []  # in which the norms run
        self.shapes: dict[str, torch.Size] = {}  # of the inputs, by layer
        self.num_values: dict[str, int] = {}  # that share a mean, by layer
        self._values: dict[str, dict[str, Tensor]] = {}  # by layer and quantity
        self._mask: Tensor | None = None
        self._waiting: list[tuple[ProbedNorm, dict[str, Tensor]]] = []  # for the next activation
        self._handles: list[RemovableHandle] = []
        if "attention_mask" in inspect.signature(model.forward).parameters:
            self._handles.append(model.register_forward_pre_hook(self._take_mask, with_kwargs=True))
        for norm in norms:
            self._handles.append(norm.layer.register_forward_hook(self._make_hook(norm)))
        self._handles += [
            m.register_forward_pre_hook(self._measure_activation) for m in model.modules() if is_activation(m)
        ]

    def remove(self) -> None:
        """Remove the hooks from the model; the gradients of the pass that has run are still measured."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _take_mask(self, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        mask = inspect.signature(model.forward).bind_partial(*args, **kwargs).arguments.get("attention_mask")
        self._mask = mask.bool() if mask is not None and mask.ndim == 2 else None

    def _mask_of(self, x: Tensor) -> Tensor | None:
        return self._mask if self._mask is not None and x.ndim == 3 and x.shape[:2] == self._mask.shape else None

    def _make_hook(self, norm: ProbedNorm) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor | None]:
        def hook(layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            if not args or is_recomputing():
                return None
            if self.shapes.setdefault(norm.name, args[0].shape) != args[0].shape:
                return None
            values = self._measure(norm, args[0], output)
            if not output.requires_grad:
                return None
            # The hook needs a tensor of its own in two cases: an in-place activation would take the hook off a view,
            # and where the output is the input, the gradients of the input's other uses would be added.
            own = output.clone() if output._base is not None or output is args[0] else output
            own.register_hook(lambda gradient: values.update(gradient_norm=l2_norm(gradient)))
            return own

        return hook

    @torch.no_grad()
    def _measure(self, norm: ProbedNorm, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """The measures of a run of the layer, which replace those of an earlier run."""
        if norm.name not in self._values:
            self.order.append(norm)
        values = self._values[norm.name] = {}
        self._waiting.append((norm, values))
        if (count := values_per_statistic(norm, x)) is not None:
            self.num_values[norm.name] = count
        mean, var = moments(*self._subsample(x, norm.channel_dim))
        values["input_mean"], values["input_std"] = over_channels(mean, var)
        layer = norm.layer
        if isinstance(layer, _BatchNorm) and layer.running_mean is not None:
            assert layer.running_var is not None
            values["running_var"] = layer.running_var.max()
            if layer.num_batches_tracked is not None:
                values["num_batches"] = layer.num_batches_tracked
            if layer.training:  # a frozen layer uses the running statistics in training, too
                if self._mask_of(x) is not None and not (isinstance(layer, ReadsPaddingMask) and layer.masked):
                    mean, var = moments(*subsample(x, norm.channel_dim, None))  # its statistics include padding
                values["eval_gap"] = eval_gap(layer, mean, var)
        values["output_mean"], values["output_std"] = over_channels(*moments(*self._subsample(y, norm.channel_dim)))
        return values

    @torch.no_grad()
    def _measure_activation(self, activation: nn.Module, args: tuple[Tensor, ...]) -> None:
        if not self._waiting or is_recomputing():
            return
        # The channel dimension of the last norm is the activation's; an earlier norm may have had another layout.
        share = stuck_share(activation, *self._subsample(args[0], self._waiting[-1][0].channel_dim))
        for _, values in self._waiting:
            values["stuck_share"] = share
        self._waiting.clear()

    def _subsample(self, x: Tensor, channel_dim: int) -> tuple[Tensor, int, Tensor | None]:
        return subsample(x, channel_dim, self._mask_of(x))

    @torch.no_grad()
    def measure_parameters(self) -> None:
        """Measure weights, biases and their gradients. Call this before the optimizer's step."""
        for norm in self.order:
            for name in ("weight", "bias"):
                parameter = getattr(norm.layer, name, None)
                if isinstance(parameter, nn.Parameter):
                    values = self._values[norm.name]
                    values[f"{name}_norm"] = l2_norm(parameter)
                    if parameter.grad is not None:
                        values[f"{name}_gradient_norm"] = l2_norm(parameter.grad)

    def read(self) -> dict[tuple[str, str], float]:
        """The measures by quantity and layer. Only here does the host wait for the device."""
        if not self._values:
            return {}
        found = {(key, name): value for name, values in self._values.items() for key, value in values.items()}
        return dict(zip(found, torch.stack([value.float() for value in found.values()]).tolist(), strict=True))
