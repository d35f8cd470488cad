"""What goes through a network's norms in one step: the places, and the hooks that measure there."""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle

from src.norms.functional import computing_dtype
from src.norms.processes import Synchronizable
from src.norms.recognize import RECOGNIZED, examine, is_norm

MAX_VALUES = 2**18
"""Of a larger map, every k-th row or token is looked at: enough for means and spreads, and soon read."""

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
FLAT = 0.01
"""An activation whose slope is below this passes next to nothing back."""


@dataclass(frozen=True)
class Place:
    """Where a norm is, or what took its place."""

    name: str
    layer: nn.Module
    kind: str | None
    channel_dim: int


def find_places(model: nn.Module) -> list[Place]:
    """Each norm of ours, of torch's or of a library's, and DynamicTanh and Identity where they replaced one."""
    places = []
    for name, layer in model.named_modules():
        if is_norm(layer):
            try:
                found = examine(name, layer)
            except ValueError:  # it cannot be swapped, and is looked at all the same
                known = [value for base, value in RECOGNIZED.items() if isinstance(layer, base)]
                kind, channel_dim = known[0] if known else (None, -1)
            else:
                kind, channel_dim = found.kind, found.site.channel_dim or -1
            places.append(Place(name, layer, kind, channel_dim))
    return places


def is_activation(module: nn.Module) -> bool:
    """Whether `module` is an elementwise activation, of torch's or of transformers'."""
    return isinstance(module, ACTIVATIONS) or type(module).__module__ == "transformers.activations"


def thinned(x: Tensor, channel_dim: int, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Every k-th row of `(N, C, H, W)` or token of `(B, T, D)`, in the type computed in, and the mask's likewise."""
    x = x.detach()
    step = math.ceil(x.numel() / MAX_VALUES)
    if step > 1 and x.ndim > 2:
        dim = 2 if channel_dim == 1 else 1
        x = x[(slice(None),) * dim + (slice(None, None, step),)]
        mask = mask if mask is None else mask[:, ::step]
    return x.to(computing_dtype(x.dtype)), mask


def moments(x: Tensor, channel_dim: int, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel, `(C,)` both, over what `mask`, `(B, T)`, lets through."""
    dims = tuple(dim for dim in range(x.ndim) if dim != channel_dim % x.ndim)
    if mask is None:
        # Two passes, and on a CPU a fifth of the time of torch.var_mean.
        mean = x.mean(dims, keepdim=True)
        return mean.flatten(), (x - mean).square_().mean(dims)
    share = (mask / mask.sum()).to(x.dtype)[:, :, None]  # of tokens, `channel_dim` is the last
    mean = (x * share).sum(dims)
    return mean, ((x - mean).square() * share).sum(dims)


def whole(mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of all values, from those of the channels, which have equally many."""
    return mean.mean(), (var.mean() + mean.var(correction=0)).sqrt()


def eval_gap(layer: _BatchNorm, mean: Tensor, var: Tensor) -> Tensor:
    """How far a batch norm's outputs in eval would be from those in training, before weight and bias.

    The root of the mean square over all values of the batch: a value z, normalized with the batch's mean and deviation
    s, would be `(mean - running_mean) / r + z * s / r`, r being the running deviation.
    """
    assert layer.running_mean is not None
    assert layer.running_var is not None
    running = (layer.running_var + layer.eps).sqrt()
    shift = (mean - layer.running_mean) / running
    scale = (var + layer.eps).sqrt() / running - 1
    return (shift.square() + scale.square()).mean().sqrt()


def stuck_share(activation: nn.Module, x: Tensor, channel_dim: int, mask: Tensor | None) -> Tensor:
    """The share of channels whose activation is flat at each value of the batch: dead, or saturated.

    Flat is a slope below 0.01, measured as a central difference: of a ReLU at negative values (arXiv 1903.06733), of a
    tanh or sigmoid at values far from 0 (https://proceedings.mlr.press/v9/glorot10a.html).
    """
    x = x.clamp(-20, 20)  # beyond, none of them bends, and the difference would round to 0
    h = 0.01
    rise = (activation.forward(x + h) - activation.forward(x - h)).abs_()
    if mask is not None:
        rise = rise.masked_fill_(~mask[:, :, None], 0)
    steepest = rise.amax([dim for dim in range(x.ndim) if dim != channel_dim % x.ndim]) / (2 * h)
    return (steepest < FLAT).to(x.dtype).mean()


def values_per_statistic(place: Place, x: Tensor) -> int | None:
    """How many values share a mean in the norm's input; None where it takes no statistics."""
    layer = place.layer
    if isinstance(layer, _BatchNorm):
        if not layer.training:
            return None
        peers = layer.peers() if isinstance(layer, Synchronizable) else None
        return x.numel() // x.shape[place.channel_dim] * (torch.distributed.get_world_size(peers) if peers else 1)
    samples = x.shape[0] if x.ndim > 1 else 1
    if place.kind == "InstanceNorm":
        return x.numel() // samples // x.shape[place.channel_dim]
    if isinstance(layer, nn.GroupNorm):
        return (x.numel() // samples if place.channel_dim == 1 else x.shape[-1]) // layer.num_groups
    if place.kind == "LayerNorm":
        return math.prod(getattr(layer, "normalized_shape", (x.shape[place.channel_dim],)))
    return None


class Watch:
    """Hooks on a model for one training step; what they find stays on the device until it is asked for.

    A layer that runs several times counts once, and so does one whose forward pass is repeated in the backward pass.

    Args:
        model: looked at from `attention_mask` on, if it takes one: padding is left out.
        places: its norms.
    """

    def __init__(self, model: nn.Module, places: list[Place]) -> None:
        self.order: list[Place] = []  # as they run
        self.shapes: dict[str, torch.Size] = {}
        self.num_values: dict[str, int] = {}  # that share a mean
        self._values: dict[tuple[str, str], Tensor] = {}
        self._mask: Tensor | None = None
        self._waiting: list[Place] = []  # for their activation
        self._handles: list[RemovableHandle] = []
        if "attention_mask" in inspect.signature(model.forward).parameters:
            self._handles.append(model.register_forward_pre_hook(self._take_mask, with_kwargs=True))
        for place in places:
            self._handles.append(place.layer.register_forward_hook(self._look_at(place)))
        self._handles += [
            m.register_forward_pre_hook(self._look_at_activation) for m in model.modules() if is_activation(m)
        ]

    def remove(self) -> None:
        """Leave the model as it was; gradients are still seen on their way back."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _take_mask(self, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        mask = inspect.signature(model.forward).bind_partial(*args, **kwargs).arguments.get("attention_mask")
        self._mask = mask.bool() if mask is not None and mask.ndim == 2 else None

    def _mask_of(self, x: Tensor) -> Tensor | None:
        return self._mask if self._mask is not None and x.ndim == 3 and x.shape[:2] == self._mask.shape else None

    def _look_at(self, place: Place) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor | None]:
        def hook(layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            if place.name in self.shapes or not args:
                return None
            self._look_at_sides(place, args[0], output)
            if not output.requires_grad:
                return None
            # An activation in place would cut a view's gradient off from its hook.
            seen = output if output._base is None else output.clone()
            seen.register_hook(lambda gradient: self._keep(place, gradient_norm=norm(gradient)))
            return seen

        return hook

    @torch.no_grad()
    def _look_at_sides(self, place: Place, x: Tensor, y: Tensor) -> None:
        self.order.append(place)
        self._waiting.append(place)
        self.shapes[place.name] = x.shape
        if (count := values_per_statistic(place, x)) is not None:
            self.num_values[place.name] = count
        mean, var = moments(*self._seen(x, place.channel_dim))
        mean_of_all, std = whole(mean, var)
        self._keep(place, input_mean=mean_of_all, input_std=std)
        layer = place.layer
        if isinstance(layer, _BatchNorm) and layer.running_mean is not None:
            assert layer.running_var is not None
            self._keep(place, eval_gap=eval_gap(layer, mean, var), running_var=layer.running_var.max())
            if layer.num_batches_tracked is not None:
                self._keep(place, num_batches=layer.num_batches_tracked)
        mean_of_all, std = whole(*moments(*self._seen(y, place.channel_dim)))
        self._keep(place, output_mean=mean_of_all, output_std=std)

    @torch.no_grad()
    def _look_at_activation(self, activation: nn.Module, args: tuple[Tensor, ...]) -> None:
        shares: dict[int, Tensor] = {}
        for place in self._waiting:
            dim = place.channel_dim
            if dim not in shares:
                x, _, mask = self._seen(args[0], dim)
                shares[dim] = stuck_share(activation, x, dim, mask)
            self._keep(place, stuck_share=shares[dim])
        self._waiting.clear()

    def _seen(self, x: Tensor, channel_dim: int) -> tuple[Tensor, int, Tensor | None]:
        x, mask = thinned(x, channel_dim, self._mask_of(x))
        return x, channel_dim, mask

    def _keep(self, place: Place, **values: Tensor) -> None:
        self._values |= {(name, place.name): value.detach() for name, value in values.items()}

    @torch.no_grad()
    def look_at_parameters(self) -> None:
        """The norms of weights and biases and of their gradients, before the optimizer takes its step."""
        for place in self.order:
            for name in ("weight", "bias"):
                parameter = getattr(place.layer, name, None)
                if isinstance(parameter, nn.Parameter):
                    self._keep(place, **{f"{name}_norm": norm(parameter)})
                    if parameter.grad is not None:
                        self._keep(place, **{f"{name}_gradient_norm": norm(parameter.grad)})

    def read(self) -> dict[tuple[str, str], float]:
        """What was found, by quantity and layer; the one time that the device is waited for."""
        if not self._values:
            return {}
        values = torch.stack([value.float() for value in self._values.values()]).tolist()
        return dict(zip(self._values, values, strict=True))


def norm(x: Tensor) -> Tensor:
    """The root of the sum of squares, summed in float32 at least."""
    return torch.linalg.vector_norm(x.detach(), dtype=computing_dtype(x.dtype))
