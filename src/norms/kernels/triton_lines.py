"""Triton kernels for means of many values, which several programs compute together, and for given means.

The input is read as lines of values: the columns of a channels-last input, or runs of adjacent values. A line has one
mean, and one weight unless weights are per value. A first kernel writes sums over parts of lines. A small kernel merges
the sums of each mean, always in the same order. A last kernel writes the output.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import cdiv, next_power_of_2

from src.norms.kernels.arrangement import Arrangement
from src.norms.kernels.triton_tiles import FUSED, load, store

BLOCK = 4096  # values that a program holds
WIDTH = 64  # columns that are read side by side
MERGED = 2048  # sums that a program merges at once
MEANS = 8  # adjacent means that a program merges at once
WARPS = 8
# Arguments that change with the batch: Triton does not specialize a kernel for their values.
COUNTS = ("steps", "parts", "plane", "shares", "count")


@triton.jit
def place_of(line, part, parts, inner):
    """The offset of the sums over a part of a line. The sums of `inner` adjacent lines are adjacent."""
    return ((line // inner).to(tl.int64) * parts + part) * inner + line % inner


@triton.jit
def load_parameter(parameter, line, which_mean, value, size, groups, PER: tl.constexpr):
    if PER == "value":
        found = load(parameter + line % groups * size + value, value < size)
    elif PER == "line":
        found = tl.load(parameter + line % groups).to(tl.float32)
    else:
        found = tl.load(parameter + which_mean).to(tl.float32)
    return found


@triton.jit(do_not_specialize=COUNTS)
def line_moments(
    x, partials, lines, size, line_stride, value_stride, steps, parts, inner, plane,
    ABOUT_ZERO: tl.constexpr, LINES: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """For each part: a value near its mean, the mean minus that value, and the sum of squared deviations."""
    blocks = tl.cdiv(lines, LINES)
    part = tl.program_id(0) // blocks
    line = tl.program_id(0) % blocks * LINES + tl.arange(0, LINES)[:, None]
    within = tl.arange(0, SIZE)[None, :]
    start = part * steps * SIZE
    count = tl.minimum(steps * SIZE, size - start)
    source = x + line.to(tl.int64) * line_stride

    center = tl.zeros([LINES, 1], tl.float32)
    if not ABOUT_ZERO:
        # The mean of the first values, which is as near to the mean of all as the spread allows.
        value = start + within
        first = load(source + value.to(tl.int64) * value_stride, (line < lines) & (value < size))
        center = tl.sum(first, axis=1, keep_dims=True) / tl.minimum(count, SIZE)
    sums = tl.zeros([LINES, SIZE], tl.float32)
    squares = tl.zeros([LINES, SIZE], tl.float32)
    for step in range(steps):
        value = start + step * SIZE + within
        mask = (line < lines) & (value < size)
        deviation = load(source + value.to(tl.int64) * value_stride, mask)
        deviation = tl.where(mask, deviation - center, 0.0)
        sums += deviation
        squares += deviation * deviation

    above = tl.zeros([LINES, 1], tl.float32)
    if not ABOUT_ZERO:
        above = tl.sum(sums, axis=1, keep_dims=True) / count
    to = partials + place_of(line, part, parts, inner)
    tl.store(to, center, mask=line < lines)
    tl.store(to + plane, above, mask=line < lines)
    left = tl.sum(squares, axis=1, keep_dims=True) - above * above * count
    tl.store(to + plane + plane, left, mask=line < lines)


@triton.jit
def share_of(which_mean, share, steps, parts, inner, adjacent, size, SIZE: tl.constexpr):
    """A line of the mean, the offset of its part's sums, and the number of values in that part."""
    part = share % parts
    line = share // parts * inner + which_mean * adjacent
    return line, place_of(line, part, parts, inner), tl.minimum(steps * SIZE, size - part * steps * SIZE)


@triton.jit(do_not_specialize=COUNTS)
def merge_moments(
    partials, mean, var, rest, size, steps, parts, inner, plane, adjacent, means, shares, count,
    SIZE: tl.constexpr, MEANS: tl.constexpr, SHARES: tl.constexpr,
):  # fmt: skip
    """Mean, variance and rest of all values, from the moments of the parts (Chan, Golub and LeVeque, 1979)."""
    which_mean = tl.program_id(0) * MEANS + tl.arange(0, MEANS)[:, None]
    sums = tl.zeros([MEANS, SHARES], tl.float32)
    if mean is not None:
        for start in range(0, shares, SHARES):
            share = start + tl.arange(0, SHARES)[None, :]
            mask = (which_mean < means) & (share < shares)
            _, place, n = share_of(which_mean, share, steps, parts, inner, adjacent, size, SIZE)
            sums += n * (load(partials + place, mask) + load(partials + place + plane, mask))
    center = tl.sum(sums, axis=1, keep_dims=True) / count

    sums = tl.zeros([MEANS, SHARES], tl.float32)
    squares = tl.zeros([MEANS, SHARES], tl.float32)
    for start in range(0, shares, SHARES):
        share = start + tl.arange(0, SHARES)[None, :]
        mask = (which_mean < means) & (share < shares)
        _, place, n = share_of(which_mean, share, steps, parts, inner, adjacent, size, SIZE)
        deviation = load(partials + place, mask) - center + load(partials + place + plane, mask)
        deviation = tl.where(mask, deviation, 0.0)
        sums += n * deviation
        squares += load(partials + place + plane + plane, mask) + n * deviation * deviation
    above = tl.sum(sums, axis=1, keep_dims=True) / count
    var_found = tl.sum(squares, axis=1, keep_dims=True) / count
    if mean is not None:
        var_found -= above * above
        tl.store(mean + which_mean, center + above, mask=which_mean < means)
        tl.store(rest + which_mean, center - (center + above) + above, mask=which_mean < means)
    tl.store(var + which_mean, tl.where(var_found < 0, 0.0, var_found), mask=which_mean < means)


@triton.jit(do_not_specialize=COUNTS)
def line_normalize(
    x, y, weight, bias, mean, var, rest,
    lines, size, line_stride, value_stride, adjacent, means, groups, eps,
    PER: tl.constexpr, LINES: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(lines, LINES)
    line = tl.program_id(0) % blocks * LINES + tl.arange(0, LINES)[:, None]
    value = tl.program_id(0) // blocks * SIZE + tl.arange(0, SIZE)[None, :]
    mask = (line < lines) & (value < size)
    place = line.to(tl.int64) * line_stride + value.to(tl.int64) * value_stride
    which_mean = line // adjacent % means

    result = load(x + place, mask)
    if mean is not None:
        result -= tl.load(mean + which_mean).to(tl.float32)
        if rest is not None:
            result -= tl.load(rest + which_mean)
    result *= tl.rsqrt(tl.load(var + which_mean).to(tl.float32) + eps)
    if weight is not None:
        result *= load_parameter(weight, line, which_mean, value, size, groups, PER)
    if bias is not None:
        result += load_parameter(bias, line, which_mean, value, size, groups, PER)
    store(y + place, result, mask)


@triton.jit(do_not_specialize=COUNTS)
def line_sums(
    dy, x, weight, mean, partials,
    lines, size, line_stride, value_stride, steps, parts, inner, plane, adjacent, means, groups,
    PER: tl.constexpr, LINES: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """For each part: the sums of g, g * (x - mean) and x - mean. g is dy, times the weights if these are per value."""
    blocks = tl.cdiv(lines, LINES)
    part = tl.program_id(0) // blocks
    line = tl.program_id(0) % blocks * LINES + tl.arange(0, LINES)[:, None]
    center = tl.zeros([LINES, 1], tl.float32)
    if mean is not None:
        center = tl.load(mean + line // adjacent % means).to(tl.float32)
    sum_g = tl.zeros([LINES, SIZE], tl.float32)
    sum_gx = tl.zeros([LINES, SIZE], tl.float32)
    sum_x = tl.zeros([LINES, SIZE], tl.float32)
    for step in range(steps):
        value = (part * steps + step) * SIZE + tl.arange(0, SIZE)[None, :]
        mask = (line < lines) & (value < size)
        place = line.to(tl.int64) * line_stride + value.to(tl.int64) * value_stride
        g = load(dy + place, mask)
        if PER == "value" and weight is not None:
            g *= load_parameter(weight, line, line, value, size, groups, PER)
        deviation = tl.where(mask, load(x + place, mask) - center, 0.0)
        sum_g += g
        sum_gx += g * deviation
        sum_x += deviation

    to = partials + place_of(line, part, parts, inner)
    tl.store(to, tl.sum(sum_g, axis=1, keep_dims=True), mask=line < lines)
    tl.store(to + plane, tl.sum(sum_gx, axis=1, keep_dims=True), mask=line < lines)
    tl.store(to + plane + plane, tl.sum(sum_x, axis=1, keep_dims=True), mask=line < lines)


@triton.jit(do_not_specialize=COUNTS)
def merge_sums(
    partials, weight, var, coefficients, dweight, dbias,
    size, steps, parts, inner, plane, adjacent, means, groups, shares, count, eps,
    PER: tl.constexpr, THROUGH: tl.constexpr, CENTERED: tl.constexpr,
    SIZE: tl.constexpr, MEANS: tl.constexpr, SHARES: tl.constexpr,
):  # fmt: skip
    """The terms that `line_gradient` subtracts: mean(g), r^2 * mean(g * (x - mean)) and `rest`.

    If weights are per mean, it also writes their gradients.

    THROUGH: the statistics were not given, so the gradient also goes through them.
    """
    which_mean = tl.program_id(0) * MEANS + tl.arange(0, MEANS)[:, None]
    here = which_mean < means
    sum_g = tl.zeros([MEANS, SHARES], tl.float32)
    sum_gx = tl.zeros([MEANS, SHARES], tl.float32)
    sum_x = tl.zeros([MEANS, SHARES], tl.float32)
    for start in range(0, shares, SHARES):
        share = start + tl.arange(0, SHARES)[None, :]
        mask = here & (share < shares)
        line, place, _ = share_of(which_mean, share, steps, parts, inner, adjacent, size, SIZE)
        w = 1.0
        if PER == "line" and weight is not None:
            w = load(weight + line % groups, mask)
        sum_g += w * load(partials + place, mask)
        sum_gx += w * load(partials + place + plane, mask)
        sum_x += load(partials + place + plane + plane, mask)

    g = tl.sum(sum_g, axis=1, keep_dims=True)
    gx = tl.sum(sum_gx, axis=1, keep_dims=True)
    r = tl.rsqrt(tl.load(var + which_mean, mask=here, other=1.0).to(tl.float32) + eps)
    rest = tl.zeros([MEANS, 1], tl.float32)
    if THROUGH and CENTERED:
        rest = tl.sum(sum_x, axis=1, keep_dims=True) / count
        gx -= rest * g
    if dweight is not None:
        tl.store(dweight + which_mean, gx * r, mask=here)
    if dbias is not None:
        tl.store(dbias + which_mean, g, mask=here)
    if THROUGH:
        if PER == "mean" and weight is not None:
            w = load(weight + which_mean, here)
            g *= w
            gx *= w
        if not CENTERED:
            g = rest
        tl.store(coefficients + which_mean, g / count, mask=here)
        tl.store(coefficients + means + which_mean, r * r * gx / count, mask=here)
        tl.store(coefficients + 2 * means + which_mean, rest, mask=here)


@triton.jit(do_not_specialize=COUNTS)
def line_gradient(
    dy, x, dx, weight, mean, var, coefficients,
    lines, size, line_stride, value_stride, adjacent, means, groups, eps,
    PER: tl.constexpr, LINES: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(lines, LINES)
    line = tl.program_id(0) % blocks * LINES + tl.arange(0, LINES)[:, None]
    value = tl.program_id(0) // blocks * SIZE + tl.arange(0, SIZE)[None, :]
    mask = (line < lines) & (value < size)
    place = line.to(tl.int64) * line_stride + value.to(tl.int64) * value_stride
    which_mean = line // adjacent % means

    g = load(dy + place, mask)
    if weight is not None:
        g *= load_parameter(weight, line, which_mean, value, size, groups, PER)
    if coefficients is not None:
        deviation = load(x + place, mask)
        if mean is not None:
            deviation -= tl.load(mean + which_mean)
            deviation -= tl.load(coefficients + 2 * means + which_mean)
            g -= tl.load(coefficients + which_mean)
        g -= deviation * tl.load(coefficients + means + which_mean)
    store(dx + place, g * tl.rsqrt(tl.load(var + which_mean).to(tl.float32) + eps), mask)


@triton.jit(do_not_specialize=COUNTS)
def value_sums(
    dy, x, mean, var, coefficients, dweight, dbias,
    lines, size, steps, means, groups, eps,
    LINES: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """The gradients of weights per value: each program sums over some lines of a group, for a range of values."""
    blocks = tl.cdiv(size, SIZE) * groups
    group = tl.program_id(0) % groups
    part = tl.program_id(0) // blocks
    value = tl.program_id(0) % blocks // groups * SIZE + tl.arange(0, SIZE)[None, :]
    sum_weight = tl.zeros([LINES, SIZE], tl.float32)
    sum_bias = tl.zeros([LINES, SIZE], tl.float32)
    for step in range(steps):
        line = ((part * steps + step) * LINES + tl.arange(0, LINES)[:, None]) * groups + group
        mask = (line < lines) & (value < size)
        place = line.to(tl.int64) * size + value
        gradient = load(dy + place, mask)
        deviation = load(x + place, mask)
        if mean is not None:
            deviation -= load(mean + line, line < lines)
            deviation -= load(coefficients + 2 * means + line, line < lines)
        r = tl.rsqrt(tl.load(var + line, mask=line < lines, other=1.0) + eps)
        sum_weight += gradient * deviation * r
        sum_bias += gradient
    to = (part * groups + group) * size + value
    if dweight is not None:
        tl.store(dweight + to, tl.sum(sum_weight, axis=0, keep_dims=True), mask=value < size)
    if dbias is not None:
        tl.store(dbias + to, tl.sum(sum_bias, axis=0, keep_dims=True), mask=value < size)


class Lines(NamedTuple):
    """The memory layout of lines of `size` values, and the mean and weight of each line.

    Line i has mean `i // adjacent % means`; `inner` lines of different means lie side by side. Weight and bias are per
    mean, per line `(i % groups)` or per value `(i % groups, value)`.
    """

    lines: int
    size: int
    strides: tuple[int, int]  # of lines, of values
    inner: int
    adjacent: int
    means: int
    groups: int
    per: str

    def block(self) -> tuple[int, int]:
        """The lines and values of a program's block."""
        lines, size = next_power_of_2(self.lines), next_power_of_2(self.size)
        if self.strides[1] == 1:
            size = min(size, BLOCK)
            return min(lines, BLOCK // size), size
        lines = min(lines, WIDTH)
        return lines, min(size, BLOCK // lines)

    def split(self, processors: int) -> tuple[int, int]:
        """The number of blocks in a part and of parts in a line (steps, parts): enough parts for a busy device."""
        lines, size = self.block()
        return _split(cdiv(self.size, size), cdiv(self.lines, lines), processors)

    @property
    def values(self) -> float:
        """The number of values in a mean."""
        return float(self.lines // self.means * self.size)

    def merging(self, parts: int) -> tuple[int, dict[str, int]]:
        """The number of programs that merge the sums of `parts` per line, and the block of each."""
        means = min(next_power_of_2(self.means), MEANS) if self.inner > 1 else 1
        shares = min(next_power_of_2(self.lines // self.means * parts), MERGED // means)
        return cdiv(self.means, means), {"MEANS": means, "SHARES": shares, "num_warps": 4, **FUSED}


def _split(blocks: int, programs: int, processors: int) -> tuple[int, int]:
    steps = cdiv(blocks, max(1, min(blocks, 4 * processors // programs)))
    return steps, cdiv(blocks, steps)


def lines_of(arrangement: Arrangement, has_parameters: bool) -> Lines:
    sizes = arrangement.sizes
    match arrangement.kernel:
        case "runs":
            rows, runs, size, groups = sizes
            if not has_parameters or size == 1:
                return Lines(rows, runs * size, (runs * size, 1), 1, 1, rows, groups, "value")
            return Lines(rows * runs, size, (size, 1), 1, runs, rows, groups * runs, "line")
        case "channels":
            samples, channels, size = sizes
            return Lines(samples * channels, size, (size, 1), channels, 1, channels, channels, "mean")
        case _:
            size, channels = sizes
            return Lines(channels, size, (1, channels), channels, 1, channels, channels, "mean")


def moments(x: Tensor, mean: Tensor | None, var: Tensor, by: Lines, processors: int) -> Tensor | None:
    """Write `mean` and `var`; return the rest, the exact minus the rounded mean."""
    lines, size = by.block()
    steps, parts = by.split(processors)
    plane = by.lines * parts
    partials = var.new_empty(3, plane)
    line_moments[(cdiv(by.lines, lines) * parts,)](
        x, partials, by.lines, by.size, *by.strides, steps, parts, by.inner, plane,
        ABOUT_ZERO=mean is None, LINES=lines, SIZE=size, num_warps=WARPS, **FUSED,
    )  # fmt: skip
    rest = None if mean is None else torch.empty_like(mean)
    programs, options = by.merging(parts)
    merge_moments[(programs,)](
        partials, mean, var, rest, by.size, steps, parts, by.inner, plane, by.adjacent, by.means,
        by.lines // by.means * parts, by.values, SIZE=size, **options,
    )  # fmt: skip
    return rest


def write(
    x: Tensor,
    y: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    var: Tensor,
    rest: Tensor | None,
    eps: float,
    by: Lines,
) -> None:
    lines, size = by.block()
    line_normalize[(cdiv(by.lines, lines) * cdiv(by.size, size),)](
        x, y, weight, bias, mean, var, rest, by.lines, by.size, *by.strides, by.adjacent, by.means, by.groups, eps,
        PER=by.per, LINES=lines, SIZE=size, num_warps=WARPS, **FUSED,
    )  # fmt: skip


def backward(
    dy: Tensor,
    x: Tensor,
    dx: Tensor | None,
    weight: Tensor | None,
    mean: Tensor | None,
    var: Tensor,
    eps: float,
    given: bool,
    has: tuple[bool, bool],
    by: Lines,
    processors: int,
) -> tuple[Tensor | None, Tensor | None]:
    """Write `dx`; return the gradients of weight and bias, if the layer `has` them."""
    lines, size = by.block()
    steps, parts = by.split(processors)
    plane = by.lines * parts
    partials = x.new_empty(3, plane, dtype=torch.float32)
    coefficients = partials.new_empty(3, by.means)
    dweight, dbias = (partials.new_empty(by.means) if by.per == "mean" and one else None for one in has)
    line_sums[(cdiv(by.lines, lines) * parts,)](
        dy, x, weight, mean, partials,
        by.lines, by.size, *by.strides, steps, parts, by.inner, plane, by.adjacent, by.means, by.groups,
        PER=by.per, LINES=lines, SIZE=size, num_warps=WARPS, **FUSED,
    )  # fmt: skip
    programs, options = by.merging(parts)
    merge_sums[(programs,)](
        partials, weight, var, coefficients, dweight, dbias, by.size, steps, parts, by.inner, plane,
        by.adjacent, by.means, by.groups, by.lines // by.means * parts, by.values, eps,
        PER=by.per, THROUGH=not given, CENTERED=mean is not None, SIZE=size, **options,
    )  # fmt: skip
    if dx is not None:
        line_gradient[(cdiv(by.lines, lines) * cdiv(by.size, size),)](
            dy, x, dx, weight, mean, var, None if given else coefficients,
            by.lines, by.size, *by.strides, by.adjacent, by.means, by.groups, eps,
            PER=by.per, LINES=lines, SIZE=size, num_warps=WARPS, **FUSED,
        )  # fmt: skip
    if by.per == "mean" or not any(has):
        return dweight, dbias
    if by.per == "value":
        sums = _sums_per_value(dy, x, mean, var, coefficients, eps, has, by, processors)
    else:
        sums = _sums_per_line(partials, var, coefficients[2], eps, by, parts)
    return sums[0] if has[0] else None, sums[-1] if has[1] else None


def _sums_per_line(partials: Tensor, var: Tensor, rest: Tensor, eps: float, by: Lines, parts: int) -> Tensor:
    sum_dy, sum_dyx, _ = partials.view(3, by.means, by.adjacent, parts).sum(-1)
    of_weight = (sum_dyx - rest[:, None] * sum_dy) * torch.rsqrt(var.view(-1, 1) + eps)
    return torch.stack([of_weight, sum_dy]).view(2, -1, by.groups).sum(1)


def _sums_per_value(
    dy: Tensor,
    x: Tensor,
    mean: Tensor | None,
    var: Tensor,
    coefficients: Tensor,
    eps: float,
    has: tuple[bool, bool],
    by: Lines,
    processors: int,
) -> Tensor:
    lines, size = BLOCK // 1024, 1024
    blocks = cdiv(by.size, size) * by.groups
    steps, parts = _split(cdiv(by.lines // by.groups, lines), blocks, processors)
    sums = var.new_empty(sum(has), parts, by.groups * by.size)
    value_sums[(blocks * parts,)](
        dy, x, mean, var, coefficients, sums[0] if has[0] else None, sums[-1] if has[1] else None,
        by.lines, by.size, steps, by.means, by.groups, eps, LINES=lines, SIZE=size, num_warps=WARPS, **FUSED,
    )  # fmt: skip
    return sums.sum(1)
