"""What a swap did: the layers that it replaced, those that it left alone, and the values that it kept."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from torch import nn


class Replaced(dict[str, nn.Module]):
    """The replaced layers by name.

    Args:
        layers: the replaced layers by name.
        left_alone: for each norm that was not replaced, its name and the reason.
        kept: keys of the model's state dict whose values the new layers took over from the replaced ones.
        afresh: keys of the model's state dict whose values the new layers brought.
    """

    def __init__(
        self, layers: Mapping[str, nn.Module], left_alone: Mapping[str, str], kept: Sequence[str], afresh: Sequence[str]
    ) -> None:
        super().__init__(layers)
        self.left_alone = dict(left_alone)
        self.kept = list(kept)
        self.afresh = list(afresh)

    def summary(self) -> str:
        """The kept values and the new ones, in one line: `kept: weight, bias (20 of 25); starting afresh: alpha`."""
        return f"kept: {self._names(self.kept)}; starting afresh: {self._names(self.afresh)}"

    def _names(self, keys: list[str]) -> str:
        counts = Counter(key.rpartition(".")[-1] for key in keys)
        shares = (name + (f" ({n} of {len(self)})" if n < len(self) else "") for name, n in counts.items())
        return ", ".join(shares) or "nothing"


def by_reason(left_alone: Mapping[str, str], num_names: int = 3) -> str:
    """The norms that were left alone, grouped by reason, with the first names of each group."""
    groups = defaultdict(list)
    for name, reason in left_alone.items():
        groups[reason].append(f"'{name}'")
    parts = []
    for reason, names in groups.items():
        more = f" and {len(names) - num_names} more" if len(names) > num_names else ""
        parts.append(f"{', '.join(names[:num_names])}{more}: {reason}")
    return "; ".join(parts)
