"""The hooks of a layer belong to its place in the model: whatever stands there calls them."""

import copy
from typing import Any

from torch import nn

HOOKS = (
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_backward_pre_hooks",
    "_backward_hooks",
    "_is_full_backward_hook",
)


def share_hooks(layer: nn.Module, new: nn.Module) -> None:
    """Give `new` the hooks of `layer`. The two share them, so that a hook's handle removes it from both."""
    for name in HOOKS:
        setattr(new, name, getattr(layer, name))


def copy_layer(layer: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """A deep copy of a layer, which shares its hooks and its process group.

    A hook may be a method of a large object, such as a trainer, which must stay the same object.
    """
    # A process group cannot be copied.
    shared = [getattr(layer, "process_group", None), *(getattr(layer, name) for name in HOOKS)]
    memo.update({id(each): each for each in shared})
    return copy.deepcopy(layer, memo)
