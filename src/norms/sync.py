"""Share the statistics of a model's norms among processes, and undo it."""

import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch.distributed as dist
from torch import nn
from torch.distributed import ProcessGroup
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.modules.lazy import LazyModuleMixin

CHANGED = ("synchronized", "process_group")  # attributes of a layer


class Synchronizable(nn.Module):
    """A norm with running statistics. Several processes can share the statistics that move them."""

    synchronized = False
    process_group: ProcessGroup | None = None  # the processes that share them, if synchronized; None: all

    def peers(self) -> ProcessGroup | None:
        """The processes that share their statistics in this call; None outside of training or for one process."""
        if not (self.synchronized and self.training and dist.is_available() and dist.is_initialized()):
            return None
        group = self.process_group or dist.group.WORLD
        return group if dist.get_world_size(group) > 1 else None

    def extra_repr(self) -> str:
        return super().extra_repr() + ", synchronized" * self.synchronized


class OfTokens(nn.Module):
    """A batch norm of `(..., D)`, which `torch.nn.SyncBatchNorm.convert_sync_batchnorm` must not convert.

    torch's layer would take its place, which normalizes `(N, C, *)`: other values, without an error where T equals D.
    """

    def named_children(self) -> Iterator[tuple[str, nn.Module]]:
        # Such a converter of torch, timm, apex or transformers has a name of this kind, and asks for the children.
        if re.search("convert_(sync|split)", sys._getframe(1).f_code.co_name):
            before = "" if isinstance(self, Synchronizable) else 'swap_norms(model, NORMS["BatchNorm"]) and then '
            raise ValueError(
                f"{type(self).__name__} normalizes (..., D), and cannot be converted to a batch norm that normalizes "
                "(N, C, *), as torch.nn.SyncBatchNorm does. The layers of src.norms synchronize as they are: call "
                f"{before}SyncBatchNorm.convert_sync_batchnorm(model) of src.norms, or train with train.py and "
                "--trainer.sync_batchnorm=true."
            )
        return super().named_children()


def synchronize(
    model: nn.Module, process_group: ProcessGroup | None = None, builtin: type[_BatchNorm] = nn.SyncBatchNorm
) -> Callable[[], None]:
    """Make the norms of `model` that have running statistics share them among processes, in place.

    The layers stay the same objects: ours get an attribute, and torch's own batch norms get another class.

    Args:
        model: any model.
        process_group: the processes that share their statistics; None: all.
        builtin: the class for torch's own batch norms.

    Returns:
        A function that undoes the change.

    Raises:
        ValueError: a norm has no synchronized form; the message names it. The model is unchanged.
    """
    check_synchronizable(model)
    before: dict[nn.Module, tuple[type[nn.Module], dict[str, Any]]] = {}
    for _, layer in _with_running_statistics(model):
        if isinstance(layer, builtin) or getattr(layer, "synchronized", False):
            continue
        before[layer] = type(layer), {name: layer.__dict__[name] for name in CHANGED if name in layer.__dict__}
        if isinstance(layer, Synchronizable):
            layer.synchronized = True
        else:
            layer.__class__ = builtin
        if process_group is not None or not hasattr(layer, "process_group"):
            layer.process_group = process_group  # type: ignore[assignment]

    def undo() -> None:
        for layer, (layer_class, attributes) in before.items():
            layer.__class__ = layer_class
            for name in CHANGED:
                layer.__dict__.pop(name, None)
            layer.__dict__.update(attributes)

    return undo


def check_synchronizable(model: nn.Module, on_cpu: bool = False) -> None:
    """Raise ValueError for the first norm with running statistics that processes cannot share.

    Args:
        model: any model.
        on_cpu: whether the model trains on a CPU, where torch's own batch norms have no synchronized form.

    Raises:
        ValueError: the message names the layer and says what to use instead.
    """
    for name, layer in _with_running_statistics(model):
        if isinstance(layer, Synchronizable):
            continue
        plain = isinstance(layer, _BatchNorm) and type(layer).forward in (_BatchNorm.forward, nn.SyncBatchNorm.forward)
        if isinstance(layer, LazyModuleMixin):
            reason = "it is lazy: give it a batch first"
        elif not plain:
            reason = "it is not a plain batch norm of torch's, and has no form that shares its statistics"
        elif on_cpu:
            reason = "torch synchronizes its own batch norms on GPUs alone"
        else:
            continue
        raise ValueError(
            f"sync_batchnorm cannot be honoured for layer '{name}' ({type(layer).__name__}): {reason}. The project's "
            "own norms synchronize everywhere: --model.norm=BatchNorm; norms of single samples, such as GroupNorm and "
            "LayerNorm, need not."
        )


def _with_running_statistics(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, layer in model.named_modules():
        tracks = isinstance(layer, _InstanceNorm) and layer.running_mean is not None
        if tracks or isinstance(layer, _BatchNorm):
            yield name, layer
