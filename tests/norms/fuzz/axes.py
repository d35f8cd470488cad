"""Random axes: what no layer asks of `normalize`, a kernel either computes or leaves to the formula."""

from dataclasses import dataclass
from importlib import import_module
from types import ModuleType

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from tests.norms.fuzz.layout import CONTIGUOUS, Layout, layouts
from tests.norms.fuzz.trial import shapes

TOLERANCE = 1e-4  # a value that was read from a wrong place is off by far more


@dataclass(frozen=True)
class AxesTrial:
    """A call of `normalize` with any axes, and parameters that broadcast in any way.

    Args:
        shape, layout: of the input.
        dims: the dimensions that are reduced.
        parameters: whether weight and bias vary along each dimension; None: there are neither.
        misfits: the parameters are larger by 1 along each of these dimensions, which is an error.
        given: the statistics are given, shaped as the parameters are.
        about_zero: as RMSNorm does.
        parameter_layouts: of weight, bias, mean and variance.
        gradient: the layout of the output's gradient.
        seed: of all values.
    """

    shape: tuple[int, ...]
    layout: Layout
    dims: tuple[int, ...]
    parameters: tuple[bool, ...] | None
    misfits: bool = False
    given: bool = False
    about_zero: bool = False
    parameter_layouts: tuple[Layout, Layout, Layout, Layout] = (CONTIGUOUS,) * 4
    gradient: Layout = CONTIGUOUS
    seed: int = 0

    def answers(self, dtype: torch.dtype, norms: ModuleType) -> dict[str, Tensor]:
        """Output, statistics and gradients. float64 has no kernels."""
        axes = import_module(f"{norms.__name__}.formula.axes").Axes(self.dims, about_zero=self.about_zero)
        statistics = import_module(f"{norms.__name__}.formula.statistics").Statistics
        normalize = import_module(f"{norms.__name__}.normalize").normalize
        random = torch.Generator().manual_seed(self.seed)

        def tensor(shape: tuple[int, ...], layout: Layout) -> Tensor:
            return layout.place(torch.rand(shape, generator=random).to(dtype) + 0.5)

        x = tensor(self.shape, self.layout).requires_grad_()
        weight = bias = given = None
        if self.parameters is not None:
            sizes = [size + self.misfits for size in self.shape]
            own = tuple(size if varies else 1 for size, varies in zip(sizes, self.parameters, strict=True))
            weight, bias, mean, var = (tensor(own, layout) for layout in self.parameter_layouts)
            weight.requires_grad_(), bias.requires_grad_()
            given = statistics(mean, var) if self.given else None
        y, found = normalize(x, axes, 0.1, weight, bias, given=given)
        wanted = {"input": x} if weight is None else {"input": x, "weight": weight, "bias": bias}
        gradients = torch.autograd.grad(y, list(wanted.values()), tensor(self.shape, self.gradient))
        answers = {"output": y, **{f"gradient of {k}": v for k, v in zip(wanted, gradients, strict=True)}}
        if found.mean is not None:
            answers["mean"] = found.mean if found.whole_mean() is None else found.whole_mean()
        return {**answers, "variance": found.var}

    def check(self, norms: ModuleType) -> None:
        """Raise AssertionError if float32, which kernels compute, differs from float64 by the formula."""
        try:
            expected = self.answers(torch.float64, norms)
        except RuntimeError as error:
            with pytest.raises(type(error)):
                self.answers(torch.float32, norms)
            return
        found = self.answers(torch.float32, norms)
        for name, value in expected.items():
            size = max(value.abs().max().item() if value.numel() else 0.0, 1.0)
            off = (found[name].double() - value).abs().max().item() if value.numel() else 0.0
            assert off <= TOLERANCE * size, f"{name}: off by {off:.3g}"


@st.composite
def axes_trials(draw: st.DrawFn) -> AxesTrial:
    shape = draw(shapes(draw(st.integers(1, 5))))
    rank = len(shape)
    some = st.lists(st.booleans(), min_size=rank, max_size=rank).map(tuple)
    dims = tuple(dim for dim, is_reduced in enumerate(draw(some)) if is_reduced)
    about_zero = draw(st.integers(0, 3)) == 0
    parameters = draw(st.none() | some)
    given = parameters is not None and not about_zero and draw(st.booleans())
    any_layout = st.just(CONTIGUOUS) | layouts(rank)
    of_each = tuple(draw(layouts(rank)) if draw(st.integers(0, 7)) == 0 else CONTIGUOUS for _ in range(4))
    return AxesTrial(
        shape,
        draw(any_layout),
        dims,
        parameters,
        draw(st.integers(0, 15)) == 0,
        given,
        about_zero,
        of_each,
        draw(any_layout),
        draw(st.integers(0, 1000)),
    )
