"""A learned elementwise function in place of a norm. It uses no statistics."""

import torch
from torch import Tensor, nn

from src.norms.formula.axes import Axes, shape_along
from src.norms.formula.statistics import computing_dtype
from src.norms.leaf import leaf


class Elementwise(nn.Module):
    """`y = f(x) * weight + bias`, with a weight and a bias per feature. A subclass computes f in `function`.

    Args:
        num_features: features C of `(N, C, *)`, or D of `(..., D)`.
        channel_dim: 1 for `(N, C, *)`, -1 for `(..., D)`.
        affine: learn weight and bias.
        scalars: the learned scalars of f, by name, with their first values. Each becomes a parameter `(1,)`.
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(self, num_features: int, channel_dim: int, affine: bool, **scalars: float) -> None:
        super().__init__()
        self.num_features = num_features
        self.channel_dim = channel_dim
        self.initial_scalars = scalars
        for name in scalars:
            self.register_parameter(name, nn.Parameter(torch.empty(1)))
        for name in ("weight", "bias"):
            self.register_parameter(name, nn.Parameter(torch.empty(num_features)) if affine else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for name, value in self.initial_scalars.items():
            nn.init.constant_(self.get_parameter(name), value)
        if self.weight is not None:
            nn.init.ones_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def function(self, x: Tensor, **scalars: Tensor) -> Tensor:
        """f of each value, given the scalars in the type of `x`."""
        raise NotImplementedError

    @leaf
    def forward(self, input: Tensor) -> Tensor:
        dtype = computing_dtype(input.dtype)
        y = self.function(input.to(dtype), **{name: getattr(self, name).to(dtype) for name in self.initial_scalars})
        axes = Axes((), parameter_shape=shape_along(self.channel_dim, input.ndim))
        weight, bias = axes.spread(self.weight), axes.spread(self.bias)
        y = y if weight is None else y * weight
        y = y if bias is None else y + bias
        return y.to(input.dtype)

    def extra_repr(self) -> str:
        scalars = "".join(f", {name}={value}" for name, value in self.initial_scalars.items())
        return f"{self.num_features}, channel_dim={self.channel_dim}{scalars}"
