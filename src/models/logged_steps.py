"""Which steps are logged."""

from lightning import Trainer


class LoggedSteps:
    """Says, at the end of each training batch, whether it ended an optimizer step that is logged.

    Args:
        trainer: at the start of training, which a resumed run begins at a later step.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._last = trainer.global_step

    def ended(self, trainer: Trainer) -> bool:
        """To be asked once a batch: in gradient accumulation, the batches between two steps ended none."""
        step, every = trainer.global_step, trainer.log_every_n_steps  # type: ignore[attr-defined]
        stepped, self._last = step != self._last, step
        return stepped and bool(every) and step % every == 0
