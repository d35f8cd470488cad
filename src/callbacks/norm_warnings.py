"""What goes wrong with norms in practice, said once each in the log."""

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from src.callbacks.norm_probe import Watch

log = logging.getLogger(__name__)

FEW_VALUES = 8
EXPLODED = 1e4
"""So many times its first value (1 at least): a deviation a hundred times as large."""
SETTLED = 0.01
"""Running statistics are compared with a batch's once their first value's share in them is below this."""


class NormWarnings:
    """Looks through the measurements of a step for what goes wrong.

    Args:
        eval_gap_limit: the eval gap above which training and eval are too far apart.
    """

    def __init__(self, eval_gap_limit: float) -> None:
        self.eval_gap_limit = eval_gap_limit
        self._first_var: dict[str, float] = {}
        self._said: set[Callable[..., Iterator[str]]] = set()

    def look(self, step: int, watch: Watch, values: Mapping[tuple[str, str], float]) -> None:
        """Warn of each trouble that was not warned of before, naming the first layer and how many more there are."""
        for check in (self._few_values, self._exploding_variance, self._gap):
            if check in self._said:
                continue
            if troubles := list(check(watch, values)):
                self._said.add(check)
                more = f" (and {len(troubles) - 1} more of the norms)" if len(troubles) > 1 else ""
                log.warning("step %d, layer %s", step, troubles[0].replace(":", f"{more}:", 1))

    def _few_values(self, watch: Watch, values: Mapping[tuple[str, str], float]) -> Iterator[str]:
        for name, count in watch.num_values.items():
            if count < FEW_VALUES:
                yield (
                    f"'{name}': {count} value{'s' * (count > 1)} of its input {tuple(watch.shapes[name])} share"
                    f"{'s' * (count == 1)} a mean. A variance of so few is mostly chance. Take larger batches or "
                    "images, a backbone or stem that shrinks them less, fewer groups, or another norm, such as "
                    "--model.norm=LayerNorm"
                )

    def _exploding_variance(self, watch: Watch, values: Mapping[tuple[str, str], float]) -> Iterator[str]:
        for place in watch.order:
            var = values.get(("running_var", place.name))
            if var is None:
                continue
            first = self._first_var.setdefault(place.name, max(1.0, var))
            if not math.isfinite(var) or var > EXPLODED * first:
                yield (
                    f"'{place.name}': its running variance explodes; the largest channel's is {var:.3g}, and was "
                    f"{first:.3g} at most when training started. Lower --model.recipe.lr, warm up for longer "
                    "(--model.recipe.warmup), or clip gradients (--trainer.gradient_clip_val=1)"
                )

    def _gap(self, watch: Watch, values: Mapping[tuple[str, str], float]) -> Iterator[str]:
        for place in watch.order:
            gap = values.get(("eval_gap", place.name), 0.0)
            if not gap > self.eval_gap_limit:  # nor if it is not a number: the loss is none either, and is warned of
                continue
            momentum: Any = place.layer.momentum
            num_batches = values.get(("num_batches", place.name), 0.0)
            if (1 / max(num_batches, 1) if momentum is None else (1 - momentum) ** num_batches) < SETTLED:
                yield (
                    f"'{place.name}': its outputs in eval, by running statistics, are {gap:.2f} deviations from those "
                    f"in training, by the batch's (limit: {self.eval_gap_limit:g}), so that scores in eval may fall "
                    "short. Take larger batches, a lower --model.recipe.lr, a --model.norm.momentum that suits the "
                    "number of steps, or a norm that is the same in eval: --model.norm=GroupNorm"
                )
