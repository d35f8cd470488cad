"""Forward passes in which hooks on inner layers are called."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn


def uncompiled(model: nn.Module) -> AbstractContextManager[object]:
    """Run what torch.compile compiled in `model` as it was written; compiled code is kept for afterwards."""
    if all(module._compiled_call_impl is None for module in model.modules()):
        return nullcontext()  # and no second spent on importing the compiler
    return torch.compiler.set_stance("force_eager")
