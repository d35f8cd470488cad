"""A norm is one call to torch.fx, as torch's own are, and not the steps inside."""

import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.fx import Proxy


def leaf(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`forward`, which under symbolic tracing becomes a single node of the graph.

    torch.fx takes only the modules of `torch.nn` for single nodes unless it is told; who traces a whole model, as
    torchvision's `create_feature_extractor` does, does not know of ours.
    """

    @functools.wraps(forward)
    def record_or_run(self: Any, *args: Any, **kwargs: Any) -> Any:
        value = args[0] if args else next(iter(kwargs.values()), None)
        if not isinstance(value, Proxy):
            return forward(self, *args, **kwargs)
        path = value.tracer.path_of_module(self)  # type: ignore[attr-defined]
        if not path:
            raise ValueError("torch.fx takes a norm as one call: trace the model that holds it, not it alone")
        return value.tracer.create_proxy("call_module", path, args, kwargs)

    return record_or_run
