"""What to say when a name is not known."""

from collections.abc import Iterable
from difflib import get_close_matches


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """`unknown backbone 'resnet81'. Did you mean 'resnet18'? There are: alexnet, ...`"""
    known = sorted(known)
    nearest = get_close_matches(name.rpartition(".")[2].lower(), [k.lower() for k in known], n=1, cutoff=0.5)
    hint = next((f" Did you mean '{k}'?" for k in known if nearest and k.lower() == nearest[0]), "")
    return f"unknown {kind} '{name}'.{hint} There are: {', '.join(known)}"
