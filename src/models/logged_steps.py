"""Which optimizer steps are logged: one of every `log_every_n_steps`, or none if that is 0.

Lightning's own test is private (`trainer._logger_connector.should_update_logs`).
"""

from lightning import Trainer


def is_logged_step(trainer: Trainer) -> bool:
    """During a training step: whether its optimizer step is logged. The step that stops the training is also logged."""
    every = trainer.log_every_n_steps  # type: ignore[attr-defined]
    return bool(every) and ((trainer.global_step + 1) % every == 0 or trainer.should_stop)


class LoggedSteps:
    """Says at the end of each training batch whether the batch ended an optimizer step that is logged.

    Args:
        trainer: at the start of training; a resumed run begins at a later step than 0.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._last = trainer.global_step

    def ended(self, trainer: Trainer) -> bool:
        """Call this once for each batch: in gradient accumulation, most batches end no optimizer step."""
        step, every = trainer.global_step, trainer.log_every_n_steps  # type: ignore[attr-defined]
        stepped, self._last = step != self._last, step
        return stepped and bool(every) and step % every == 0
