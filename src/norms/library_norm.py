"""Norms that libraries write themselves: which layers they are, and which of them a swap has to leave alone."""

import re
from inspect import Parameter, signature

from torch import nn

NORM = re.compile(r"norm(?!al(?!i[sz]))", re.IGNORECASE)  # RmsNorm, NoNorm, LayerNormalization; not NormalCell


def is_library_norm(module: nn.Module) -> bool:
    """Whether `module` has "norm" in its class name, and is a leaf or has a weight of one dimension.

    A container, and a linear layer or an embedding that also normalizes, are no norms.
    """
    layer_class = type(module)
    if not NORM.search(layer_class.__name__):
        return False
    builtin = next(base for base in layer_class.__mro__ if base.__module__.startswith("torch.nn."))
    if builtin is not nn.Module and not NORM.search(builtin.__name__):
        return False
    return not any(module.children()) or num_features(module) is not None


def num_features(layer: nn.Module) -> int | None:
    """The number of features of a library's norm, or None if the layer does not say it."""
    weight = getattr(layer, "weight", None)
    shape = getattr(layer, "normalized_shape", ()) if weight is None else weight.shape
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    # A weight with a single element scales all features.
    return int(shape[0]) if len(shape) == 1 and shape[0] > 1 else None


def why_left_alone(layer: nn.Module) -> str | None:
    """Why a library's norm has to stay when the norms around it are replaced; None: it can be replaced."""
    if reason := takes_more(layer):
        return reason
    if "weight" in layer._buffers:
        return "its weight is frozen in a buffer"
    if "responsenorm" in type(layer).__name__.lower():
        return "it compares channels or positions, and does not normalize by a mean and a variance"
    if num_features(layer) is None:
        return "its number of features is not known: it has no weight and no normalized_shape of one dimension"
    if children := [name for name, child in layer.named_children() if not isinstance(child, nn.Identity)]:
        return f"it has layers of its own ({', '.join(children)}), which a swap would lose"
    if others := [name for name, _ in layer.named_parameters() if name not in ("weight", "bias")]:
        return f"it has parameters beside weight and bias ({', '.join(others)}), which a swap would lose"
    return None


def takes_more(layer: nn.Module) -> str | None:
    """The reason to leave a layer alone whose callers give more than one input, or may do so; None for others."""
    inputs = [
        parameter
        for parameter in signature(layer.forward).parameters.values()
        if parameter.kind not in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    ]
    # An option has a value by default. An input that a caller may leave out, such as a gate, is None by default.
    further = [parameter.name for parameter in inputs[1:] if parameter.default in (Parameter.empty, None)]
    return f"it takes further inputs ({', '.join(further)}), which other norms do not take" if further else None
