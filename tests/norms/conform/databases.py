"""PyTorch's databases of test cases, imported without their side effects on the process."""

import warnings
from typing import Any
from unittest import mock

import torch

with (
    warnings.catch_warnings(),
    # It would forbid the rest of the process to set `torch.backends.cudnn.benchmark`, as Lightning's Trainer does.
    mock.patch.object(torch.backends, "disable_global_flags"),
):
    warnings.simplefilter("ignore")  # an optional package that torch's own tests use
    from torch.testing._internal.common_methods_invocations import op_db
    from torch.testing._internal.common_modules import ModuleErrorEnum, module_db

CONSTRUCTION_ERROR = ModuleErrorEnum.CONSTRUCTION_ERROR


def module_info(name: str) -> Any:
    """The entry of `torch.nn.<name>`."""
    (info,) = (info for info in module_db if info.name == f"nn.{name}")
    return info


def function_info(name: str) -> Any:
    """The entry of `torch.nn.functional.<name>`."""
    (info,) = (info for info in op_db if info.name == f"nn.functional.{name}" and not info.variant_test_name)
    return info
