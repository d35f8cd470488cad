"""A check is a function of a subject that raises AssertionError; `CHECKS` holds all of them, by name."""

from collections.abc import Callable
from dataclasses import dataclass

from tests.norms.conform.subjects import Subject

Applies = Callable[[Subject], bool]


@dataclass(frozen=True)
class Check:
    """One thing that a norm has to do."""

    run: Callable[[Subject], None]
    applies: Applies

    @property
    def name(self) -> str:
        return self.run.__name__

    @property
    def meaning(self) -> str:
        return (self.run.__doc__ or "").strip().splitlines()[0]

    def failure(self, subject: Subject) -> str | None:
        """Why the subject fails, or None."""
        try:
            self.run(subject)
        except Exception as error:  # whatever a wrong norm raises is its failure
            return f"{type(error).__name__}: {error}".strip()
        return None


CHECKS: dict[str, Check] = {}


def always(subject: Subject) -> bool:
    return True


def has_reference(subject: Subject) -> bool:
    return subject.theirs is not None


def is_drop_in(subject: Subject) -> bool:
    return subject.is_drop_in


def tracks(subject: Subject) -> bool:
    """Whether the layer keeps running statistics."""
    return subject.has_running_statistics


def is_batch_norm(subject: Subject) -> bool:
    return subject.name.startswith("BatchNorm") and has_reference(subject)


def is_drop_in_batch_norm(subject: Subject) -> bool:
    return is_batch_norm(subject) and subject.is_drop_in


def check(applies: Applies = always) -> Callable[[Callable[[Subject], None]], Callable[[Subject], None]]:
    """Enter a function into `CHECKS`, for the subjects to which it applies."""

    def enter(run: Callable[[Subject], None]) -> Callable[[Subject], None]:
        CHECKS[run.__name__] = Check(run, applies)
        return run

    return enter
