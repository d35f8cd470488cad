"""Warnings in the log about common problems with norms, each once."""

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from src.callbacks.norm_probe import NormProbe

log = logging.getLogger(__name__)

FEW_VALUES = 8
"""The log warns of a mean over fewer values than this."""

EXPLODED = 1e4
"""The log warns of a running variance this many times its first value (or 1, if larger): 100 times the deviation."""

SETTLED = 0.01
"""Running statistics are compared with the batch's once their first value has a smaller share in them than this."""


class NormWarnings:
    """Looks for problems in the measures of a step.

    Args:
        eval_gap_limit: the largest eval gap without a warning, in deviations.
    """

    def __init__(self, eval_gap_limit: float) -> None:
        self.eval_gap_limit = eval_gap_limit
        self._first_var: dict[str, float] = {}
        self._warned: set[Callable[..., Iterator[str]]] = set()

    def look(self, step: int, probe: NormProbe, values: Mapping[tuple[str, str], float]) -> None:
        """Warn of each new problem; name the first layer and the number of the others."""
        for check in (self._few_values, self._exploding_variance, self._gap):
            if check in self._warned:
                continue
            if problems := list(check(probe, values)):
                self._warned.add(check)
                more = f" (and {len(problems) - 1} more of the norms)" if len(problems) > 1 else ""
                log.warning("step %d, layer %s", step, problems[0].replace(":", f"{more}:", 1))

    def _few_values(self, probe: NormProbe, values: Mapping[tuple[str, str], float]) -> Iterator[str]:
        for name, count in probe.num_values.items():
            if count < FEW_VALUES:
                yield (
                    f"'{name}': {count} value{'s' * (count > 1)} of its input {tuple(probe.shapes[name])} share"
                    f"{'s' * (count == 1)} a mean. A variance of so few is mostly chance. Take larger batches or "
                    "images, a backbone or stem that shrinks them less, fewer groups, or another norm, such as "
                    "--model.norm=LayerNorm"
                )

    def _exploding_variance(self, probe: NormProbe, values: Mapping[tuple[str, str], float]) -> Iterator[str]:
        for norm in probe.order:
            var = values.get(("running_var", norm.name))
            if var is None:
                continue
            first = self._first_var.setdefault(norm.name, max(1.0, var))
            if not math.isfinite(var) or var > EXPLODED * first:
                yield (
                    f"'{norm.name}': its running variance explodes; the largest channel's is {var:.3g}, and was "
                    f"{first:.3g} at most when training started. Lower --model.recipe.lr, warm up for longer "
                    "(--model.recipe.warmup), or clip gradients (--trainer.gradient_clip_val=1)"
                )

    def _gap(self, probe: NormProbe, values: Mapping[tuple[str, str], float]) -> Iterator[str]:
        for norm in probe.order:
            gap = values.get(("eval_gap", norm.name), 0.0)
            if not gap > self.eval_gap_limit:  # skips NaN too: FiniteLoss then warns of the loss
                continue
            momentum: Any = norm.layer.momentum
            num_batches = values.get(("num_batches", norm.name), 0.0)
            if (1 / max(num_batches, 1) if momentum is None else (1 - momentum) ** num_batches) < SETTLED:
                yield (
                    f"'{norm.name}': its outputs in eval, by running statistics, are {gap:.2f} deviations from those "
                    f"in training, by the batch's (limit: {self.eval_gap_limit:g}), so that scores in eval may fall "
                    "short. Take larger batches, a lower --model.recipe.lr, a --model.norm.momentum that suits the "
                    "number of steps, or a norm that is the same in eval: --model.norm=GroupNorm"
                )
