"""Messages about a name that is not known. Imports only the standard library."""

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """` Did you mean 'resnet18'?`, with the known name nearest to `name`, ignoring case; empty if none is near.

    `cutoff` is how alike two names must be, from 0 (any two) to 1 (the same).
    """
    by_lower_case = {each.lower(): each for each in known}
    nearest = get_close_matches(name.lower(), by_lower_case, n=1, cutoff=cutoff)
    return f" Did you mean {by_lower_case[nearest[0]]!r}?" if nearest else ""


def unknown_name(noun: str, name: str, known: Iterable[str]) -> str:
    """`unknown backbone 'resnet81'. Did you mean 'resnet18'? There are: alexnet, ...`"""
    known = sorted(known)
    # People often give a dotted path whose last part is nearly right.
    hint = did_you_mean(name.rpartition(".")[2], known, cutoff=0.5)
    return f"unknown {noun} '{name}'.{hint} There are: {', '.join(known)}"
