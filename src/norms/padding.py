"""Pass the padding mask of a text model's call to the norms whose statistics run over positions.

A model gets the mask as an argument and calls its norms with their input alone. Hooks keep the mask of the running call
in the calling thread, from the beginning of the call to its end. A norm reads it there. So a mask never meets another
call or another thread.
"""

import inspect
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from src.norms.repeated_forward import next_sequence_number, record, repeated_call


class _Call(NamedTuple):
    """A call that is running."""

    module: nn.Module | None
    given: Any  # the argument
    mask: Tensor | None  # True at a token, in the shape of a norm's input without features; None: every position counts
    first_node: int | None  # None: the call is not recorded


class _Thread(threading.local):
    """The calls that are running in a thread, the innermost last."""

    def __init__(self) -> None:
        self.calls: list[_Call] = []


_thread = _Thread()


def _in_backward() -> bool:
    return torch._C._current_graph_task_id() != -1


# torch.compile calls the function once, while it compiles. `torch.compiler.assume_constant_result` sets the same
# attribute, but it imports the compiler, which takes seconds.
_in_backward._dynamo_marked_constant = True  # type: ignore[attr-defined]


@contextmanager
def padding_mask(mask: Tensor | None) -> Iterator[None]:
    """In the block, norms leave padding out of their statistics. `mask` is `(B, T)`, True at a token."""
    _thread.calls.append(_Call(None, mask, mask, None))
    try:
        yield
    finally:
        _thread.calls.pop()


class ReadsPaddingMask(nn.Module):
    """A norm whose statistics run over the positions of `(B, T, D)`, and so have to leave padding out."""

    masked: bool = True
    """Whether statistics leave padding out. If not, they depend on how far a batch is padded."""

    model_takes_mask: bool = False
    """Whether the layer is part of a model whose calls pass a mask."""

    def mask_for(self, x: Tensor) -> Tensor | None:
        """The mask of the running call in the shape that broadcasts over `x`: `(B, T, 1)` for `(B, T, D)`.

        None if every position counts: there is no mask, `masked` is False, or `x` has vectors `(N, D)`, such as one per
        sample. The vectors `(B * T, D)` of all positions get a mask `(B * T, 1)`.

        Raises:
            ValueError: the mask does not fit `x`.
            RuntimeError: the forward pass is a repetition, and the mask of the original is not known.
        """
        mask = self._mask_of_call() if self.masked else None
        if mask is None:
            return None
        if x.ndim == 2:
            flattened = x.shape[0] == prod(mask.shape) and x.shape[0] != mask.shape[0]
            return mask.reshape(-1, 1) if flattened else None
        if x.shape[:2] == mask.shape:
            return mask.reshape(*mask.shape, *[1] * (x.ndim - 2))
        raise ValueError(
            f"a padding mask of shape {tuple(mask.shape)} does not fit an input of shape {tuple(x.shape)}: "
            "expected (B, T) and (B, T, ...)"
        )

    def _mask_of_call(self) -> Tensor | None:
        if _thread.calls:
            return _thread.calls[-1].mask
        if not self.model_takes_mask or not _in_backward():
            return None
        call = None if torch.compiler.is_compiling() else repeated_call()
        if call is None:
            raise RuntimeError(
                "this forward pass repeats another one inside a backward pass (activation checkpointing), and the "
                "padding mask of that one is not known: checkpoint parts of a model that is called as a whole, and "
                "compile the whole model or nothing"
            )
        return call.mask


class _MaskArgument(NamedTuple):
    """The argument of a model that says where padding is."""

    name: str
    place: int  # among the positional arguments
    true_at_padding: bool = False
    time_first: bool = False  # whether the model hands (T, B, D) to its norms

    def of(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        return kwargs.get(self.name, args[self.place] if len(args) > self.place else None)

    def as_mask(self, value: Tensor) -> Tensor:
        """True at a token, in the order of the norms' inputs. A float mask of torch's encoders is -inf at padding."""
        if self.true_at_padding:
            value = ~value if value.dtype == torch.bool else ~torch.isneginf(value)
        return (value.mT if self.time_first else value).bool()


def _is_traced() -> bool:
    return torch.compiler.is_compiling() or torch.jit.is_tracing() or torch._C._are_functorch_transforms_active()


def _begin(argument: _MaskArgument, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Keep the mask of the call, unless it is the one of the call around it."""
    given, calls = argument.of(args, kwargs), _thread.calls
    for number, call in enumerate(calls):
        if call.module is module:  # a call that Ctrl-C has interrupted, since no module calls itself
            del calls[number:]
            break
    is_mask = isinstance(given, Tensor) and given.ndim == 2
    if calls and (not is_mask or given is calls[-1].given):
        return
    if not is_mask and _in_backward():
        return  # the norms ask for the mask of the call that is repeated
    if given is not None and not is_mask:
        shape = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
        raise ValueError(
            f"{argument.name} has shape {shape}; norms that take statistics over positions need (B, T), 1 at a token "
            "and 0 at padding"
        )
    mask = argument.as_mask(given) if is_mask else None
    is_recorded = torch.is_grad_enabled() and not _is_traced()
    calls.append(_Call(module, given, mask, next_sequence_number() if is_recorded else None))


def _end(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
    calls = _thread.calls
    if calls and calls[-1].module is module:
        call = calls.pop()
        if call.first_node is not None and output is not None:
            record(call.mask, call.first_node, output)


def _mask_argument(module: nn.Module) -> _MaskArgument | None:
    parameters = list(inspect.signature(module.forward).parameters)
    if "attention_mask" in parameters:
        return _MaskArgument("attention_mask", parameters.index("attention_mask"))
    names = {
        nn.TransformerEncoder: "src_key_padding_mask",
        nn.TransformerEncoderLayer: "src_key_padding_mask",
        nn.TransformerDecoder: "tgt_key_padding_mask",
        nn.TransformerDecoderLayer: "tgt_key_padding_mask",
    }
    name = next((name for known, name in names.items() if isinstance(module, known)), None)
    if name is None or name not in parameters:
        return None
    return _MaskArgument(name, parameters.index(name), true_at_padding=True, time_first=is_time_first(module))


def is_time_first(module: nn.Module) -> bool:
    """Whether torch's attention in `module` takes `(T, B, D)`."""
    return any(isinstance(m, nn.MultiheadAttention) and not m.batch_first for m in module.modules())


def is_time_first_at(model: nn.Module, name: str) -> bool:
    """Whether the layer `name` gets `(T, B, D)`: the nearest part around it that has torch's attention says so."""
    while name:
        name = name.rpartition(".")[0]
        part = model.get_submodule(name)
        if any(isinstance(module, nn.MultiheadAttention) for module in part.modules()):
            return is_time_first(part)
    return False


def share_padding_mask(model: nn.Module) -> list[RemovableHandle]:
    """Make each call of `model`, and of each part that takes a mask, pass its mask to the norms inside.

    The masks are `attention_mask` of transformers' models, 1 at a token, and `src_key_padding_mask` and
    `tgt_key_padding_mask` of torch's encoders and decoders, True at padding. A second call changes nothing.

    Returns:
        The hooks that were added.
    """
    handles = []
    for module in model.modules():
        readers = [part for part in module.modules() if isinstance(part, ReadsPaddingMask)]
        argument = _mask_argument(module) if readers and readers != [module] else None
        if argument is None:
            continue
        for reader in readers:
            reader.model_takes_mask = True
        if not any(getattr(hook, "func", None) is _begin for hook in module._forward_pre_hooks.values()):
            handles.append(module.register_forward_pre_hook(partial(_begin, argument), with_kwargs=True))
            handles.append(module.register_forward_hook(_end, with_kwargs=True, always_call=True))
    return handles
