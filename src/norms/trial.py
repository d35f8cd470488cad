"""Find out what a layer computes: run a copy of it on small inputs, beside a layer whose formula is known.

A trial changes neither the layer nor the random numbers of the program, and calls no hook.
"""

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from src.norms.hooks import copy_layer


def _copy_for_trial(layer: nn.Module, layer_class: type[nn.Module] | None = None) -> nn.Module | None:
    """A copy in float32 whose parameters and statistics do not hide a wrong formula; None if it cannot be copied.

    Fresh weights would hide one: at 1, `x * weight` and `x * weight**2` are equal.
    """
    try:
        tried = copy_layer(layer, {}).requires_grad_(False).float()
        tried.__class__ = layer_class or type(layer)
        if any(tensor.is_meta for tensor in _tensors(tried)):
            tried.to_empty(device="cpu")
            for buffer in tried.buffers():
                buffer.zero_()
        statistics = (getattr(tried, name, None) for name in ("running_mean", "running_var"))
        for i, tensor in enumerate((*tried.parameters(), *(t for t in statistics if isinstance(t, Tensor)))):
            tensor.copy_(_numbers(tensor.shape, tensor.device, phase=i) / 2 + 1)  # from 0.5 to 1.5
    except Exception:  # what a library keeps on a layer, or a sharded parameter, may fail here in any way
        return None
    return tried


def _tensors(layer: nn.Module) -> Iterator[Tensor]:
    yield from layer.parameters()
    yield from layer.buffers()


def _device(layer: nn.Module) -> torch.device:
    return next((tensor.device for tensor in _tensors(layer)), torch.device("cpu"))


def _numbers(shape: tuple[int, ...], device: torch.device, phase: float) -> Tensor:
    """Numbers from -1 to 1 without a pattern that a layout could share. They do not come from a random generator."""
    numbers = torch.arange(math.prod(shape), dtype=torch.float32, device=device)
    return (1.7 * numbers + 0.3 * numbers.sqrt() + phase).sin().reshape(shape)


def _inputs(features: tuple[int, ...], channel_dim: int, device: torch.device) -> Iterator[Tensor]:
    """Inputs `(..., *features)`, or `(N, *features, ...)` if `channel_dim` is 1, with two to four other dimensions.

    An input `(N, C)` is of both layouts. No other dimension has the size of the features, so that a layer of the other
    layout does not take such an input by chance. Half of the inputs have small values, where eps counts.
    """
    others = 2 * [size for size in (2, 3, 5, 7) if size not in features][:2]
    for num_others, scale in itertools.product((2, 3, 4), (1.0, 1e-3)):
        num_before = 1 if channel_dim == 1 else num_others
        shape = (*others[:num_before], *features, *others[num_before:num_others])
        yield scale * (_numbers(shape, device, phase=num_others) + 1 / 3)


def _run(layer: nn.Module, x: Tensor) -> Tensor | None:
    """The output, or None if the layer does not take `x` or changes its shape."""
    try:
        # `layer(x)` would call the hooks.
        y = layer.forward(x.clone())
    except Exception:  # a layer may refuse an input in any way
        return None
    return y if isinstance(y, Tensor) and y.shape == x.shape else None


@contextmanager
def _trial(layer: nn.Module) -> Iterator[None]:
    device = _device(layer)
    with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield


def takes(layer: nn.Module, features: tuple[int, ...], channel_dim: int) -> bool:
    """Whether a layer takes inputs of this layout and gives outputs of the same shape."""
    with _trial(layer):
        tried = _copy_for_trial(layer)
        if tried is None:
            return False
        return any(_run(tried, x) is not None for x in _inputs(features, channel_dim, _device(tried)))


def computes_the_same(
    layer: nn.Module, known: nn.Module | type[nn.Module], features: tuple[int, ...], channel_dim: int
) -> bool:
    """Whether `layer` computes what `known` computes, in training and in eval.

    It does if outputs and state are equal for each input that both take, and if there is such an input.

    Args:
        layer: the layer.
        known: another layer, or a class that works with the attributes of `layer`.
        features: the sizes of the dimensions with features.
        channel_dim: -1 if these are the last dimensions of an input, 1 if they come after the first.
    """
    num_compared = 0
    with _trial(layer):
        for training in (True, False):
            theirs = _copy_for_trial(layer)
            ours = _copy_for_trial(known) if isinstance(known, nn.Module) else _copy_for_trial(layer, known)
            if theirs is None or ours is None or theirs.state_dict().keys() != ours.state_dict().keys():
                return False
            ours.to(_device(theirs)).load_state_dict(theirs.state_dict())
            theirs.train(training), ours.train(training)
            for x in _inputs(features, channel_dim, _device(theirs)):
                found, expected = _run(theirs, x), _run(ours, x)
                if found is None or expected is None:
                    continue
                pairs = [(found, expected), *zip(_tensors(theirs), _tensors(ours), strict=True)]
                if not all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in pairs):
                    return False
                num_compared += 1
    return num_compared > 0
