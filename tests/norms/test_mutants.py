"""The conformance suite kills mutants. Each mutant is a copy of our source with one mistake."""

import importlib
import itertools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from src import norms
from tests.norms.conform import CHECKS, Subject
from tests.norms.conform.subjects import drop_in, in_layout

SOURCE = Path(norms.__file__).parent
COPIES = itertools.count()


@dataclass(frozen=True)
class Mutant:
    """A mistake, the edit that puts it into the source, and the check that has to find it in `layer`."""

    wrong: str
    file: str
    old: str
    new: str
    layer: str
    check: str
    kernels: bool = False  # whether the check needs kernels; most mistakes are in the formula


MUTANTS = [
    # Statistics of several processes.
    Mutant(
        "each process counts equally, whatever its number of values",
        "processes.py",
        "(means * (counts / total)).sum(0)",
        "means.mean(0)",
        "BatchNorm2d",
        "many_processes",
    ),
    Mutant(
        "the spread between the processes' means is left out",
        "processes.py",
        "(squares + counts * (means - merged).square()).sum(0)",
        "squares.sum(0)",
        "BatchNorm2d",
        "many_processes",
    ),
    Mutant(
        "gradients go only through the statistics of this process",
        "derivative.py",
        "if axes.process_group is not None:\n        sum_g,",
        "if False:\n        sum_g,",
        "BatchNorm2d",
        "many_processes",
    ),
    Mutant(
        "both processes are assumed to have the same number of samples",
        "instance_norm.py",
        "(total[:2] / total[2]).unbind()",
        "(total[:2] / (2 * values.shape[1])).unbind()",
        "InstanceNorm2d",
        "many_processes",
    ),
    # The formula.
    Mutant(
        "the unbiased variance normalizes",
        "statistics.py",
        "Statistics(mean, var, count, rest)",
        "Statistics(mean, var * (count / (count - 1)), count, rest)",
        "LayerNorm",
        "outputs",
    ),
    Mutant(
        "the biased variance is tracked",
        "running.py",
        "batch.unbiased_var().flatten()",
        "batch.var.flatten()",
        "BatchNorm2d",
        "biased_normalizes_unbiased_is_tracked",
    ),
    Mutant("no eps", "normalization.py", "torch.rsqrt(var + eps)", "torch.rsqrt(var)", "BatchNorm1d", "constant_input"),
    Mutant(
        "eps outside of the root",
        "normalization.py",
        "torch.rsqrt(var + eps)",
        "1 / (torch.sqrt(var) + eps)",
        "GroupNorm",
        "outputs",
    ),
    Mutant(
        "the naive variance, E[x^2] - E[x]^2",
        "statistics.py",
        "var = mean_over(deviation.square(), dims, mask) - rest.square()",
        "var = mean_over(x.square(), dims, mask) - mean.square()",
        "BatchNorm2d",
        "offset_data",
    ),
    Mutant(
        "half precision is summed in half precision",
        "statistics.py",
        "return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype",
        "return dtype",
        "LayerNorm",
        "half_statistics_in_float32",
    ),
    Mutant(
        "the output is float32 for every type of input",
        "normalization.py",
        "rest, out).to(x.dtype)",
        "rest, out)",
        "BatchNorm2d",
        "output_dtype",
    ),
    Mutant(
        "the mean is not subtracted",
        "statistics.py",
        "rest = mean_over(deviation, dims, mask)",
        "deviation, rest = x, 0 * mean",
        "InstanceNorm2d",
        "outputs",
    ),
    Mutant(
        "the rounding error of the mean stays in the deviations",
        "statistics.py",
        "rest = mean_over(deviation, dims, mask)",
        "rest = 0 * mean",
        "BatchNorm2d",
        "offset_data",
    ),
    Mutant(
        "the backward pass ignores the rounding error of the mean",
        "derivative.py",
        "sum_dy_z.sub_(rest * sum_dy)",
        "rest = None",
        "BatchNorm2d",
        "offset_data",
    ),
    Mutant(
        "the backward pass ignores the rounding error of the mean, where the weight varies",
        "derivative.py",
        "deviation, rest = deviation.sub_(rest), None",
        "rest = None",
        "LayerNorm",
        "offset_data",
    ),
    Mutant(
        "RMSNorm subtracts the mean",
        "rms_norm.py",
        "last_axes(rank, about_zero=True)",
        "last_axes(rank, about_zero=False)",
        "RMSNorm",
        "outputs",
    ),
    Mutant(
        "the bias is dropped", "normalization.py", "torch.add(y, bias", "torch.add(y, 0 * bias", "LayerNorm", "outputs"
    ),
    Mutant(
        "only the last dimension is normalized",
        "layer_norm.py",
        "last_axes(len(self.normalized_shape))",
        "last_axes(1)",
        "LayerNorm",
        "outputs",
    ),
    Mutant(
        "channel i belongs to group i modulo the number of groups",
        "group_norm.py",
        "dims=tuple(range(dim + 1, input.ndim + 1)),\n"
        "            shape=(*before, self.num_groups, input.shape[dim] // self.num_groups, *after),\n"
        "            parameter_shape=(self.num_groups, -1, *[1] * len(after)),",
        "dims=(dim, *range(dim + 2, input.ndim + 1)),\n"
        "            shape=(*before, input.shape[dim] // self.num_groups, self.num_groups, *after),\n"
        "            parameter_shape=(-1, self.num_groups, *[1] * len(after)),",
        "GroupNorm",
        "outputs",
    ),
    Mutant(
        "eps=None is the machine epsilon of the input's type, not of the type of the computation",
        "rms_norm.py",
        "torch.finfo(computing_dtype(x.dtype)).eps",
        "torch.finfo(x.dtype).eps",
        "RMSNorm",
        "machine_epsilon",
    ),
    # Gradients.
    Mutant(
        "the statistics count as constants in the backward pass",
        "derivative.py",
        "return dx.add_(g)",
        "return dx.zero_().add_(g)",
        "BatchNorm2d",
        "gradients",
    ),
    Mutant(
        "the backward pass leaves out the gradient through the mean",
        "derivative.py",
        "dx.sub_(sum_g / count if rest is None else sum_g / count + rest * slope)",
        "dx.sub_(0 if rest is None else rest * slope)",
        "LayerNorm",
        "gradients",
    ),
    Mutant(
        "second derivatives do not go through the statistics",
        "normalize.py",
        "if torch.is_grad_enabled() or formula_needed(dy)",
        "if formula_needed(dy)",
        "BatchNorm2d",
        "gradcheck_second",
    ),
    Mutant(
        "the mean and its rest are constants for autograd",
        "statistics.py",
        "rest = mean_over(deviation, dims, mask)",
        "rest = mean_over(deviation.detach(), dims, mask)",
        "BatchNorm2d",
        "gradcheck_second",
    ),
    Mutant(
        "forward-mode derivatives are not detected",
        "normalize.py",
        "forward_ad.unpack_dual(t).tangent is not None for t in tensors",
        "False for t in tensors",
        "LayerNorm",
        "gradcheck_first",
    ),
    Mutant(
        "in eval the gradient still goes through batch statistics",
        "normalize.py",
        "given = Statistics(mean, var) if ctx.given else None",
        "given = None",
        "BatchNorm2d",
        "gradients",
    ),
    Mutant(
        "the weight's gradient is not divided by the standard deviation",
        "derivative.py",
        "_of_parameters((sum_dy_z, sum_dy), (weight, bias), axes, needed)",
        "_of_parameters((sum_dy_z / scale, sum_dy), (weight, bias), axes, needed)",
        "GroupNorm",
        "gradients",
    ),
    Mutant(
        "autograd keeps tensors for every operation of the formula",
        "normalize.py",
        "        torch.compiler.is_compiling()\n",
        "        True\n",
        "BatchNorm2d",
        "saved_bytes",
    ),
    # Running statistics.
    Mutant(
        "momentum is the share of the old statistics",
        "running.py",
        ".lerp(batch, factor)",
        ".lerp(batch, 1 - factor)",
        "BatchNorm2d",
        "buffers",
    ),
    Mutant(
        "eval uses the batch's statistics",
        "batch_norm.py",
        "use_batch = self.training or (running_mean is None and running_var is None)",
        "use_batch = True",
        "BatchNorm2d",
        "outputs",
    ),
    Mutant(
        "running statistics of single samples are not updated",
        "instance_norm.py",
        "            if input.numel() or self.peers() is not None:\n                self._follow(sample)\n",
        "",
        "InstanceNorm2d",
        "buffers",
    ),
    Mutant(
        "the biased variance of single samples is tracked",
        "instance_norm.py",
        "(mean, sample.unbiased_var())",
        "(mean, sample.var)",
        "InstanceNorm2d",
        "buffers",
    ),
    Mutant(
        "the repeated forward pass has fewer operations than selective checkpointing expects",
        "batch_norm.py",
        "            if follows:\n",
        "            if follows and not is_recomputing():\n",
        "BatchNorm2d",
        "is_checkpointed_selectively",
    ),
    Mutant(
        "a tensor that selective checkpointing keeps is overwritten",
        "normalize.py",
        "in_place=not recorded",
        "in_place=True",
        "BatchNorm2d",
        "is_checkpointed_selectively",
    ),
    Mutant(
        "a parameter's gradient is overwritten if its sum is the summed tensor itself",
        "derivative.py",
        "value.clone() if found is value else found",
        "found",
        "LayerNorm",
        "gradients",
    ),
    Mutant(
        "running statistics are kept for the backward pass without a copy",
        "normalize.py",
        "if given and any(ctx.needs_input_grad):",
        "if False:",
        "BatchNorm2d",
        "eval_then_training",
    ),
    Mutant(
        "batched gradients are copied into a tensor that is not batched",
        "normalize.py",
        "torch._C._functorch.is_legacy_batchedtensor(dy) or (",
        "(",
        "BatchNorm2d",
        "batched_gradients",
    ),
    Mutant(
        "the output is a view",
        "normalization.py",
        "torch.ops.aten._unsafe_view(y, x.shape)",
        "y.view(x.shape)",
        "GroupNorm",
        "output_is_no_view",
    ),
    Mutant(
        "tracking continues after it is turned off",
        "batch_norm.py",
        "follows = self.training and self.track_running_stats",
        "follows = self.training and self.running_mean is not None",
        "BatchNorm2d",
        "toggled_off_leaves_buffers",
    ),
    Mutant(
        "momentum 0.0 is treated as None",
        "batch_norm.py",
        "            if self.momentum is None:\n",
        "            if not self.momentum:\n",
        "BatchNorm2d",
        "cumulative_momentum",
    ),
    Mutant(
        "momentum None is the default momentum",
        "batch_norm.py",
        "factor = 1 / num_batches_tracked.to(batch.var.dtype)",
        "factor = 0.1",
        "BatchNorm3d",
        "cumulative_momentum",
    ),
    Mutant(
        "buffers are replaced by new tensors",
        "batch_norm.py",
        "        follow(running_mean, running_var, batch, factor)\n",
        "        self.running_mean = running_mean.lerp(batch.mean.flatten(), factor)\n",
        "BatchNorm2d",
        "buffers_in_place",
    ),
    Mutant(
        "the running statistics carry a gradient",
        "batch_norm.py",
        "    @torch.no_grad()\n    def _follow",
        "    def _follow",
        "BatchNorm2d",
        "compiles_whole",
    ),
    Mutant(
        "batches are not counted",
        "batch_norm.py",
        "num_batches_tracked.add_(1)",
        "num_batches_tracked.add_(0)",
        "BatchNorm2d",
        "counts_without_gradients",
    ),
    Mutant(
        "batches are counted only where gradients are on",
        "batch_norm.py",
        "        if num_batches_tracked is not None:\n",
        "        if num_batches_tracked is not None and __import__('torch').is_grad_enabled():\n",
        "BatchNorm2d",
        "counts_without_gradients",
    ),
    Mutant(
        "an empty batch moves the statistics",
        "batch_norm.py",
        "        elif count == 0:\n            return\n",
        "",
        "BatchNorm2d",
        "empty_batch",
    ),
    Mutant(
        "padding is in the statistics",
        "batch_norm.py",
        "weight, bias, self.mask_for(input))",
        "weight, bias, None)",
        "BatchNorm (..., D)",
        "padding",
    ),
    Mutant(
        "an exported norm subtracts the mean first, which does not fold",
        "normalization.py",
        "if given is not None and is_exporting():",
        "if False:",
        "BatchNorm2d",
        "folds_on_export",
    ),
    Mutant(
        "threads share the mask of the latest call",
        "padding.py",
        "class _Thread(threading.local):",
        "class _Thread:",
        "InstanceNorm (..., D)",
        "serves_threads",
    ),
    Mutant(
        "nested tensors of equal sizes do not share their offsets",
        "nested.py",
        "x.offsets(),",
        "x.offsets().clone(),",
        "LayerNorm",
        "takes_nested_tensors",
    ),
    Mutant(
        "padding is only in the variance",
        "statistics.py",
        "mean_over(deviation.square(), dims, mask)",
        "mean_over(deviation.square(), dims)",
        "InstanceNorm (..., D)",
        "padding",
    ),
    Mutant(
        "a gradient reaches padding",
        "derivative.py",
        "dx.masked_fill_(~mask, 0)",
        "dx.masked_fill_(mask & ~mask, 0)",
        "BatchNorm (..., D)",
        "padding",
    ),
    # Use with torch's other tools.
    Mutant(
        "a branch on the data breaks the graph",
        "normalization.py",
        "    if weight is not None:\n        y = torch.mul(",
        "    if weight is not None and not var.isnan().all():\n        y = torch.mul(",
        "LayerNorm",
        "compiles_whole",
    ),
    Mutant(
        "a batch is counted again when checkpointing repeats it",
        "running.py",
        "return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1",
        "return False",
        "BatchNorm2d",
        "is_checkpointed",
    ),
    Mutant(
        "the memory format is read under vmap, which has none",
        "inputs.py",
        "if x.is_contiguous() or torch._C._are_functorch_transforms_active():",
        "if False:",
        "BatchNorm2d",
        "maps_over_inputs",
    ),
    # What kernels can read.
    Mutant(
        "a kernel reads parameters in the order of the input",
        "arrangement.py",
        "if along_parameters != sorted(along_parameters) or",
        "if",
        "RMSNorm",
        "layouts_of_kernels",
        kernels=True,
    ),
    Mutant(
        "the backward pass adds eps to running statistics in their own type",
        "derivative.py",
        "torch.rsqrt(axes.spread(given.var).to(dy.dtype) + eps)",
        "torch.rsqrt(axes.spread(given.var) + eps)",
        "BatchNorm1d",
        "found_by_fuzzing",
    ),
    # Layout, errors, types.
    Mutant(
        "a channels-last input is made contiguous",
        "inputs.py",
        "return x if x.is_contiguous(memory_format=channels_last) else x.contiguous()",
        "return x.contiguous()",
        "BatchNorm2d",
        "channels_last",
    ),
    Mutant(
        "a transposed input gives a transposed output",
        "layer_norm.py",
        "input = autocast_to_float32(input).contiguous()",
        "input = autocast_to_float32(input)",
        "LayerNorm",
        "memory_order",
    ),
    Mutant(
        "one value per channel raises no error",
        "batch_norm.py",
        "if use_batch and peers is None and x.numel() == num_channels and self._num_values(x) == 1:",
        "if False:",
        "BatchNorm1d",
        "one_value_in_each_mean",
    ),
    Mutant(
        "running statistics follow an input with another number of channels",
        "instance_norm.py",
        "if self.running_mean is not None and num_channels != self.num_features:",
        "if False:",
        "InstanceNorm1d",
        "found_by_fuzzing",
    ),
    Mutant(
        "no channel is taken for one value per channel",
        "batch_norm.py",
        " and self._num_values(x) == 1:",
        ":",
        "BatchNorm2d",
        "without_channels",
    ),
    Mutant(
        "a group norm takes an input without channels",
        "group_norm.py",
        "if num_channels == 0:",
        "if False:",
        "GroupNorm",
        "without_channels",
    ),
    Mutant(
        "an input with one channel is broadcast to all channels",
        "batch_norm.py",
        "if vector is not None and vector.numel() != num_channels:",
        "if vector is not None and vector.numel() != num_channels and num_channels > 1:",
        "BatchNorm2d",
        "errors",
    ),
    Mutant(
        "eps of zero raises no error",
        "batch_norm.py",
        "if use_batch and self.eps <= 0:",
        "if use_batch and self.eps < 0:",
        "BatchNorm2d",
        "eps_not_positive",
    ),
    Mutant(
        "mixed types raise no error",
        "layer_norm.py",
        "        check_dtypes(input, weight, bias)\n",
        "",
        "LayerNorm",
        "errors",
    ),
    Mutant(
        "an input of any rank is accepted",
        "batch_norm.py",
        "    _check_input_dim = nn.BatchNorm2d._check_input_dim\n",
        "",
        "BatchNorm2d",
        "errors",
    ),
]


@contextmanager
def package_of(mutant: Mutant | None, folder: Path, kernels: bool) -> Iterator[ModuleType]:
    """A copy of `src.norms` under a new name, with the mutant's edit, which runs kernels or only the formula."""
    name = f"norms_copy_{next(COPIES)}"  # torch.compile identifies modules by name
    for file in (*SOURCE.rglob("*.py"), *SOURCE.rglob("*.cpp")):
        text = file.read_text()
        if mutant is not None and file.name == mutant.file:
            assert mutant.old in text, f"{mutant.wrong}: {mutant.file} no longer holds {mutant.old!r}"
            text = text.replace(mutant.old, mutant.new)
        text = text.replace("src.norms", name)
        copy = folder / name / file.relative_to(SOURCE)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(text)
    sys.path.insert(0, str(folder))
    try:
        package = importlib.import_module(name)
        with importlib.import_module(f"{name}.kernels.setting").use_kernels(kernels):
            yield package
    finally:
        sys.path.remove(str(folder))
        for module in [key for key in sys.modules if key.split(".")[0] == name]:
            del sys.modules[module]


def subject_in(package: ModuleType, layer: str) -> Subject:
    if "(" not in layer:
        return drop_in(layer, package)
    family, _, layout = layer.partition(" ")
    return in_layout(family, 1 if layout == "(N, C, *)" else -1, package)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.wrong.replace(" ", "-"))
def test_mutant_is_killed(mutant: Mutant, tmp_path: Path) -> None:
    with package_of(mutant, tmp_path, mutant.kernels) as package:
        subject, check = subject_in(package, mutant.layer), CHECKS[mutant.check]
        assert check.applies(subject)
        assert check.failure(subject) is not None


@pytest.mark.parametrize(
    ("layer", "check", "kernels"), sorted({(mutant.layer, mutant.check, mutant.kernels) for mutant in MUTANTS})
)
def test_the_copy_without_an_edit_lives(layer: str, check: str, kernels: bool, tmp_path: Path) -> None:
    with package_of(None, tmp_path, kernels) as package:
        assert CHECKS[check].failure(subject_in(package, layer)) is None


def test_there_are_enough() -> None:
    assert len({mutant.wrong for mutant in MUTANTS}) == len(MUTANTS) >= 25
