"""Forward passes without torch.compile, so that hooks on inner layers are called."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn


def uncompiled(model: nn.Module) -> AbstractContextManager[object]:
    """A context in which compiled parts of `model` run uncompiled; the compiled code is kept for later."""
    if all(module._compiled_call_impl is None for module in model.modules()):
        return nullcontext()  # saves the import of the compiler, which takes a second
    return torch.compiler.set_stance("force_eager")
