"""Find the forward pass that activation checkpointing repeats, and the padding mask that it had.

A checkpointed block runs again inside the backward pass, without the model around it, and on a GPU in another thread.
The autograd graph connects the two passes: each node has a sequence number, which counts the nodes that a thread has
made. A recorded call knows the first and the last number of its nodes. The node that is running in the backward pass
has a number in that range.
"""

import threading
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_leaf = torch.empty(0, requires_grad=True)
_lock = threading.Lock()


@dataclass(eq=False)
class RecordedCall:
    """A forward pass of a model, with its padding mask."""

    mask: Tensor | None
    first: int
    last: int
    thread: int


# The graph of a call holds the call, so that it lives for as long as a backward pass may come.
_calls: "weakref.WeakSet[RecordedCall]" = weakref.WeakSet()


def next_sequence_number() -> int:
    """The number of the next node of this thread's graph, by making a node."""
    with torch.enable_grad():
        node = _leaf.view(0).grad_fn
    assert node is not None
    return node._sequence_nr()


def record(mask: Tensor | None, first: int, output: Any) -> None:
    """Record a call that began at node `first` and has returned `output`."""
    call = RecordedCall(mask, first, next_sequence_number(), threading.get_ident())
    for tensor in _tensors(output):
        if tensor.grad_fn is not None:
            tensor.grad_fn.metadata.setdefault("padding masks", []).append(call)  # type: ignore[attr-defined]
    with _lock:
        _calls.add(call)


def _tensors(output: Any) -> Iterable[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, (tuple, list)):
        for value in output:
            yield from _tensors(value)


def repeated_call() -> RecordedCall | None:
    """The recorded call that the running backward pass repeats, or None if it cannot be told.

    Threads count their nodes apart. If calls of several threads have the number in their range, the call of this thread
    is taken.
    """
    node = torch._C._current_autograd_node()
    if node is None:
        return None
    number = node._sequence_nr()
    with _lock:
        found = [call for call in _calls if call.first < number < call.last]
    own = [call for call in found if call.thread == threading.get_ident()] or found
    if len({call.thread for call in own}) != 1:
        return None
    return max(own, key=lambda call: call.first)  # the innermost
