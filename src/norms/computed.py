"""Parameters that a layer computes from other tensors at each call: parametrized and pruned ones."""

from collections.abc import Iterator

from torch import nn
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm


def check_plain_parameters(name: str, layer: nn.Module) -> None:
    """Raise ValueError if a parameter of the layer `name` is computed; the message says how to make it a plain one."""
    for tensor, way_out in _computed(layer):
        raise ValueError(
            f"layer '{name}' ({type(layer).__name__}) computes its {tensor} from other tensors, which a swap would "
            f"lose; call {way_out} with this layer first"
        )


def _computed(layer: nn.Module) -> Iterator[tuple[str, str]]:
    """The name of each such parameter, and the call that makes it a plain one."""
    if is_parametrized(layer):
        for tensor in layer.parametrizations:  # type: ignore[union-attr]
            yield tensor, f"torch.nn.utils.parametrize.remove_parametrizations(layer, '{tensor}')"
    for hook in layer._forward_pre_hooks.values():
        if isinstance(hook, BasePruningMethod):
            yield hook._tensor_name, f"torch.nn.utils.prune.remove(layer, '{hook._tensor_name}')"
        elif isinstance(hook, WeightNorm):
            yield hook.name, f"torch.nn.utils.remove_weight_norm(layer, '{hook.name}')"
        elif isinstance(hook, SpectralNorm):
            yield hook.name, f"torch.nn.utils.remove_spectral_norm(layer, '{hook.name}')"
