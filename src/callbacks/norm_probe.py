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

from src.norms.functional import computing_dtype, is_recomputing
from src.norms.padding import ReadsPaddingMask
from src.norms.processes import Synchronizable
from src.norms.recognize import RECOGNIZED, examine, is_norm

MAX_VALUES = 2**18
"""Of a larger input, so many values are looked at: enough for means and spreads, and soon read."""
WHOLE, GOLDEN = 2**16, 40503
"""The golden ratio, 0.618, in whole numbers: float64 is not on every device, and float32 does not count far enough."""

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


def thinned(x: Tensor, channel_dim: int, mask: Tensor | None) -> tuple[Tensor, int, Tensor | None]:
    """`x` in the type computed in, its channels' dimension and its mask; of a large one, `(K, C)`, -1 and `(K,)`.

    These are all channels at one position out of each `step`, over all samples. Where in its `step` it lies follows
    the golden ratio's multiples, which no width or length is in step with: rows, columns and borders are met evenly.
    """
    x = x.detach()
    step = math.ceil(x.numel() / MAX_VALUES)
    if step > 1 and x.ndim > 1:
        x = x.movedim(channel_dim, -1)
        x = x.reshape(len(x), -1, x.shape[-1])  # (N, positions, C), in most cases a view
        num_positions = x.shape[1]
        count = len(x) * num_positions
        k = torch.arange(math.ceil(count / step), device=x.device)
        places = (k * step + k * GOLDEN % WHOLE * step // WHOLE).clamp_(max=count - 1)
        x = x[places // num_positions, places % num_positions]  # (K, C)
        channel_dim, mask = -1, mask if mask is None else mask.flatten()[places]
    return x.to(computing_dtype(x.dtype)), channel_dim, mask


def moments(x: Tensor, channel_dim: int, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel, `(C,)` both, over what `mask`, `(B, T)` or `(K,)`, lets through."""
    dims = tuple(dim for dim in range(x.ndim) if dim != channel_dim % x.ndim)
    if mask is None:
        # Two passes, and on a CPU a fifth of the time of torch.var_mean.
        mean = x.mean(dims, keepdim=True)
        return mean.flatten(), (x - mean).square_().mean(dims)
    share = (mask / mask.sum()).to(x.dtype)[..., None]  # of tokens, `channel_dim` is the last
    mean = (x * share).sum(dims)
    return mean, ((x - mean).square() * share).sum(dims)


def whole(mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of all values, from those of the channels, which have equally many."""
    return mean.mean(), (var.mean() + mean.var(correction=0)).sqrt()


def eval_gap(layer: _BatchNorm, mean: Tensor, var: Tensor) -> Tensor:
    """How far a batch norm's outputs in eval would be from those in training, before weight and bias.

    The root of the mean square over all values of the batch: a value z, normalized with the batch's mean and
    `s = sqrt(var + eps)`, would be `(mean - running_mean) / r + z * s / r`, `r = sqrt(running_var + eps)`. The mean of
    z is 0, and that of its square `var / s^2`: 1 but for eps, and 0 in a channel that is constant.
    """
    assert layer.running_mean is not None
    assert layer.running_var is not None
    running = (layer.running_var + layer.eps).sqrt()
    shift = (mean - layer.running_mean) / running
    scale = (var + layer.eps).sqrt() / running - 1
    return (shift.square() + scale.square() * (var / (var + layer.eps))).mean().sqrt()


def stuck_share(activation: nn.Module, x: Tensor, channel_dim: int, mask: Tensor | None) -> Tensor:
    """The share of channels whose activation is flat at each value of the batch: dead, or saturated.

    Flat is a slope below 0.01, measured as a central difference: of a ReLU at negative values (arXiv 1903.06733), of a
    tanh or sigmoid at values far from 0 (https://proceedings.mlr.press/v9/glorot10a.html).
    """
    x = x.clamp(-20, 20)  # beyond, none of them bends, and the difference would round to 0
    h = 0.01
    rise = (activation.forward(x + h) - activation.forward(x - h)).abs_()
    if mask is not None:
        rise = rise.masked_fill_(~mask[..., None], 0)
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

    Of a layer that runs several times, the last run counts whose input has the first one's shape: of a recurrence, the
    last step that all texts reach, and not the first, whose state is 0. A forward pass that is repeated in the backward
    pass does not count.

    Args:
        model: looked at from `attention_mask` on, if it takes one: padding is left out.
        places: its norms.
    """

    def __init__(self, model: nn.Module, places: list[Place]) -> None:
        self.order: list[Place] = []  # as they run
        self.shapes: dict[str, torch.Size] = {}
        self.num_values: dict[str, int] = {}  # that share a mean
        self._values: dict[str, dict[str, Tensor]] = {}  # by layer and quantity
        self._mask: Tensor | None = None
        self._waiting: list[tuple[Place, dict[str, Tensor]]] = []  # for their activation
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
            if not args or is_recomputing():
                return None
            if self.shapes.setdefault(place.name, args[0].shape) != args[0].shape:
                return None
            values = self._look_at_sides(place, args[0], output)
            if not output.requires_grad:
                return None
            # An activation in place would cut a view's gradient off from its hook, and an input that is the output has
            # the gradients of its other ways, too.
            seen = output.clone() if output._base is not None or output is args[0] else output
            seen.register_hook(lambda gradient: values.update(gradient_norm=norm(gradient)))
            return seen

        return hook

    @torch.no_grad()
    def _look_at_sides(self, place: Place, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """What is found now, in place of what an earlier run of the layer has left."""
        if place.name not in self._values:
            self.order.append(place)
        values = self._values[place.name] = {}
        self._waiting.append((place, values))
        if (count := values_per_statistic(place, x)) is not None:
            self.num_values[place.name] = count
        mean, var = moments(*self._seen(x, place.channel_dim))
        values["input_mean"], values["input_std"] = whole(mean, var)
        layer = place.layer
        if isinstance(layer, _BatchNorm) and layer.running_mean is not None:
            assert layer.running_var is not None
            values["running_var"] = layer.running_var.max()
            if layer.num_batches_tracked is not None:
                values["num_batches"] = layer.num_batches_tracked
            if layer.training:  # else it takes the running ones in either case
                if self._mask_of(x) is not None and not (isinstance(layer, ReadsPaddingMask) and layer.masked):
                    mean, var = moments(*thinned(x, place.channel_dim, None))  # its batch has the padding
                values["eval_gap"] = eval_gap(layer, mean, var)
        values["output_mean"], values["output_std"] = whole(*moments(*self._seen(y, place.channel_dim)))
        return values

    @torch.no_grad()
    def _look_at_activation(self, activation: nn.Module, args: tuple[Tensor, ...]) -> None:
        if not self._waiting or is_recomputing():
            return
        # The last norm's channels are the activation's: an earlier one may have had another layout.
        share = stuck_share(activation, *self._seen(args[0], self._waiting[-1][0].channel_dim))
        for _, values in self._waiting:
            values["stuck_share"] = share
        self._waiting.clear()

    def _seen(self, x: Tensor, channel_dim: int) -> tuple[Tensor, int, Tensor | None]:
        return thinned(x, channel_dim, self._mask_of(x))

    @torch.no_grad()
    def look_at_parameters(self) -> None:
        """The norms of weights and biases and of their gradients, before the optimizer takes its step."""
        for place in self.order:
            for name in ("weight", "bias"):
                parameter = getattr(place.layer, name, None)
                if isinstance(parameter, nn.Parameter):
                    values = self._values[place.name]
                    values[f"{name}_norm"] = norm(parameter)
                    if parameter.grad is not None:
                        values[f"{name}_gradient_norm"] = norm(parameter.grad)

    def read(self) -> dict[tuple[str, str], float]:
        """What was found, by quantity and layer; the one time that the device is waited for."""
        if not self._values:
            return {}
        found = {(key, name): value for name, values in self._values.items() for key, value in values.items()}
        return dict(zip(found, torch.stack([value.float() for value in found.values()]).tolist(), strict=True))


def norm(x: Tensor) -> Tensor:
    """The root of the sum of squares, summed in float32 at least."""
    return torch.linalg.vector_norm(x.detach(), dtype=computing_dtype(x.dtype))
