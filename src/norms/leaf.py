"""What a norm's `forward` does with inputs that are not plain tensors: torch.fx's proxies and nested tensors."""

import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.fx import Proxy


def leaf(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A `forward` that becomes a single node of the graph under symbolic tracing, and takes nested tensors.

    By default torch.fx makes single nodes only of modules of `torch.nn`. Code that traces a whole model, such as
    torchvision's `create_feature_extractor`, does not name our classes as single nodes.
    """

    @functools.wraps(forward)
    def record_or_run(self: Any, *args: Any, **kwargs: Any) -> Any:
        value: Any = args[0] if args else next(iter(kwargs.values()), None)
        if not isinstance(value, Proxy):
            if getattr(value, "is_nested", False):
                from src.norms.nested import on_nested  # few runs need it

                return on_nested(self, forward, value)
            return forward(self, *args, **kwargs)
        path = value.tracer.path_of_module(self)  # type: ignore[attr-defined]
        if not path:
            raise ValueError(
                "torch.fx records a norm as one call: trace the model that contains it, not the norm alone"
            )
        return value.tracer.create_proxy("call_module", path, args, kwargs)

    return record_or_run
