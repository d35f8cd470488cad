"""Triton kernels for means of few values: a program reads them once, keeps them in registers and writes once.

The formulas are those of `src/norms/formula`, and rounding is corrected as in `normalize.cpp`. The mean is rounded to
float32. The mean of the deviations from it is the error of the rounding (`rest`). Both passes subtract the rest, so
that data far from zero keep their digits.
"""

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor
from triton import cdiv, next_power_of_2

from src.norms.kernels.arrangement import Arrangement

# Values that a program holds at most. The backward pass holds two inputs and two sums for each, so its limit is half.
FORWARD_LIMIT = 16384
BACKWARD_LIMIT = FORWARD_LIMIT // 2
FUSED = {
    "enable_fp_fusion": True
}  # round a * b + c once; explicit, since Triton 3.9 warns that its default will change
COLUMNS = 16  # adjacent columns of a block, so that memory is read in whole sectors

Block = tuple[int, int, int]  # rows, runs, values: each a power of 2

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def load(source, mask):
    return tl.load(source, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def store(to, value, mask):
    dtype = to.dtype.element_ty
    if INTERPRETED and dtype == tl.bfloat16:
        # The interpreter of Triton 3.9 truncates float32 to bfloat16; a GPU rounds to nearest.
        bits = value.to(tl.uint32, bitcast=True)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
        value = tl.where(value == value, rounded.to(tl.float32, bitcast=True), value)
    tl.store(to, value.to(dtype), mask=mask)


@triton.jit
def rows_of(block, groups, PER: tl.constexpr, ROWS: tl.constexpr):
    """The rows of a block, and their groups: `(ROWS, 1, 1)`."""
    within = tl.arange(0, ROWS)[:, None, None]
    if PER == "value":  # rows of one group, which share their weights
        group = block % groups
        row = (block // groups * ROWS + within) * groups + group
    else:
        row = block * ROWS + within
        group = row % groups
    return row, group


@triton.jit
def load_parameter(parameter, group, run, value, runs, size, PER: tl.constexpr):
    if PER == "value":
        found = load(parameter + group * size + value, value < size)
    elif PER == "run":
        found = load(parameter + group * runs + run, run < runs)
    else:
        found = tl.load(parameter + group).to(tl.float32)
    return found


@triton.jit
def total(values):
    """The sum over each row: `(ROWS, 1, 1)`."""
    sums = tl.sum(values, axis=2, keep_dims=True)
    if values.shape[1] > 1:
        sums = tl.sum(sums, axis=1, keep_dims=True)
    return sums


@triton.jit
def tile_forward(
    x, y, weight, bias, mean, var,
    rows, runs, size, row_stride, run_stride, value_stride, groups, eps,
    PER: tl.constexpr, ROWS: tl.constexpr, RUNS: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    row, group = rows_of(tl.program_id(0), groups, PER, ROWS)
    run, value = tl.arange(0, RUNS)[None, :, None], tl.arange(0, SIZE)[None, None, :]
    mask = (row < rows) & (run < runs) & (value < size)
    place = row.to(tl.int64) * row_stride + run.to(tl.int64) * run_stride + value * value_stride
    count = runs * size

    deviation = load(x + place, mask)
    if mean is None:
        var_found = total(deviation * deviation) / count
    else:
        center = total(deviation) / count
        deviation = tl.where(mask, deviation - center, 0.0)
        rest = total(deviation) / count
        var_found = total(deviation * deviation) / count - rest * rest
        var_found = tl.where(
            var_found < 0, 0.0, var_found
        )  # rounding can give less than 0 where all values are the same
        tl.store(mean + row, center + rest, mask=row < rows)
        deviation -= rest
    tl.store(var + row, var_found, mask=row < rows)

    result = deviation * tl.rsqrt(var_found + eps)
    if weight is not None:
        result *= load_parameter(weight, group, run, value, runs, size, PER)
    if bias is not None:
        result += load_parameter(bias, group, run, value, runs, size, PER)
    store(y + place, result, mask)


@triton.jit
def tile_backward(
    dy, x, dx, weight, mean, var, dweight, dbias,
    rows, runs, size, row_stride, run_stride, value_stride, groups, eps, blocks,
    PER: tl.constexpr, ROWS: tl.constexpr, RUNS: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """If weights are per value, a program loops over many rows and writes its part of the sums over rows at the end."""
    program = tl.program_id(0)
    run, value = tl.arange(0, RUNS)[None, :, None], tl.arange(0, SIZE)[None, None, :]
    count = runs * size
    group = program % groups
    if PER == "value":
        if weight is not None:
            w = load_parameter(weight, group, run, value, runs, size, PER)
        sum_weight = tl.zeros([ROWS, RUNS, SIZE], tl.float32)
        sum_bias = tl.zeros([ROWS, RUNS, SIZE], tl.float32)

    for block in range(program, blocks, tl.num_programs(0)):
        row, group_of_row = rows_of(block, groups, PER, ROWS)
        mask = (row < rows) & (run < runs) & (value < size)
        place = row.to(tl.int64) * row_stride + run.to(tl.int64) * run_stride + value * value_stride
        r = tl.rsqrt(tl.load(var + row, mask=row < rows, other=1.0) + eps)
        gradient = load(dy + place, mask)
        deviation = load(x + place, mask)
        g = gradient
        if weight is not None:
            if PER == "value":
                g *= w
            else:
                g *= load_parameter(weight, group_of_row, run, value, runs, size, PER)
        if mean is None:
            through = total(g * deviation)
        else:
            deviation = tl.where(mask, deviation - load(mean + row, row < rows), 0.0)
            rest = total(deviation) / count
            sum_g = total(g)
            through = total(g * deviation) - rest * sum_g
            deviation -= rest
            g -= sum_g / count
        if dx is not None:
            store(dx + place, (g - deviation * (r * r * through / count)) * r, mask)

        of_weight = gradient * deviation
        if PER == "value":
            sum_weight += of_weight * r
            sum_bias += gradient
        elif PER == "run":
            to, there = row * runs + run, (row < rows) & (run < runs)
            if dweight is not None:
                tl.store(dweight + to, tl.sum(of_weight, axis=2, keep_dims=True) * r, mask=there)
            if dbias is not None:
                tl.store(dbias + to, tl.sum(gradient, axis=2, keep_dims=True), mask=there)
        else:
            if dweight is not None:
                tl.store(dweight + row, total(of_weight) * r, mask=row < rows)
            if dbias is not None:
                tl.store(dbias + row, total(gradient), mask=row < rows)

    if PER == "value":
        to = program // groups * groups * size + group * size + value
        if dweight is not None:
            tl.store(dweight + to, tl.sum(sum_weight, axis=0, keep_dims=True), mask=value < size)
        if dbias is not None:
            tl.store(dbias + to, tl.sum(sum_bias, axis=0, keep_dims=True), mask=value < size)


class Tile(NamedTuple):
    """The memory layout of the values of a row, which share a mean: `runs` of `size` values, `strides` apart.

    Weight and bias are per value `(row % groups, value)`, per run `(row % groups, run)` or per row `(row % groups)`.
    """

    rows: int
    runs: int
    size: int
    strides: tuple[int, int, int]  # of rows, runs, values
    groups: int
    per: str

    def block(self, limit: int, processors: int) -> Block | None:
        """The rows, runs and values of a program's block, or None if a row has more values than the limit."""
        runs, size = next_power_of_2(self.runs), next_power_of_2(self.size)
        fewest = 1 if self.strides[2] == 1 else min(COLUMNS, next_power_of_2(self.rows))
        if fewest * runs * size > limit:
            return None
        # A program takes several short rows, as long as there are enough programs to keep the device busy.
        enough = next_power_of_2(cdiv(self.rows, 2 * processors))
        return max(fewest, min(limit // 4 // (runs * size), enough)), runs, size

    def blocks(self, rows_in_block: int) -> int:
        if self.per == "value":
            return self.groups * cdiv(self.rows // self.groups, rows_in_block)
        return cdiv(self.rows, rows_in_block)


def tile_of(arrangement: Arrangement, has_parameters: bool) -> Tile:
    sizes = arrangement.sizes
    match arrangement.kernel:
        case "runs":
            rows, runs, size, groups = sizes
            if not has_parameters:
                return Tile(rows, 1, runs * size, (runs * size, 1, 1), 1, "row")
            if size == 1:
                return Tile(rows, 1, runs, (runs, 1, 1), groups, "value")
            return Tile(rows, runs, size, (runs * size, size, 1), groups, "run")
        case "channels":
            samples, channels, size = sizes
            return Tile(channels, samples, size, (size, channels * size, 1), channels, "row")
        case _:
            size, channels = sizes
            return Tile(channels, 1, size, (1, 1, channels), channels, "row")


def _options(block: Block, limit: int) -> dict[str, int]:
    rows, runs, size = block
    return {"ROWS": rows, "RUNS": runs, "SIZE": size, "num_warps": max(16 * rows * runs * size // limit, 1), **FUSED}


def forward(
    x: Tensor,
    y: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    var: Tensor,
    eps: float,
    tile: Tile,
    block: Block,
) -> None:
    sizes = (tile.rows, tile.runs, tile.size, *tile.strides, tile.groups)
    tile_forward[(tile.blocks(block[0]),)](
        x, y, weight, bias, mean, var, *sizes, eps,
        PER=tile.per, **_options(block, FORWARD_LIMIT),
    )  # fmt: skip


def backward(
    dy: Tensor,
    x: Tensor,
    dx: Tensor | None,
    weight: Tensor | None,
    mean: Tensor | None,
    var: Tensor,
    eps: float,
    has: tuple[bool, bool],
    tile: Tile,
    block: Block,
    processors: int,
) -> tuple[Tensor | None, Tensor | None]:
    """Write `dx`; return the gradients of weight and bias, if the layer `has` them."""
    rows, _, size = block
    blocks = programs = tile.blocks(rows)
    shares = tile.rows // tile.groups
    if tile.per == "value":
        # Each program writes sums as large as the weight, so there are only as many programs as keep the device busy.
        busy = processors * min(4, BACKWARD_LIMIT // (rows * size))
        programs = min(blocks, tile.groups * cdiv(busy, tile.groups))
        shares = programs // tile.groups
    parameters = tile.groups * {"value": tile.size, "run": tile.runs, "row": 1}[tile.per]
    sums = var.new_empty(sum(has), shares, parameters)
    dweight = sums[0] if has[0] else None
    dbias = sums[-1] if has[1] else None
    sizes = (tile.rows, tile.runs, tile.size, *tile.strides, tile.groups)
    tile_backward[(programs,)](
        dy, x, dx, weight, mean, var, dweight, dbias, *sizes, eps, blocks,
        PER=tile.per, **_options(block, BACKWARD_LIMIT),
    )  # fmt: skip
    if not any(has):
        return None, None
    found = sums[:, 0] if shares == 1 else sums.sum(1)
    return found[0] if has[0] else None, found[-1] if has[1] else None
