"""Statistics of the norms of a model while it trains."""

from contextlib import ExitStack
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from torch import Tensor, nn

from src.callbacks.norm_charts import QUANTITIES, History, custom_scalars_layout, tag
from src.callbacks.norm_probe import NormProbe, ProbedNorm, find_norms
from src.callbacks.norm_warnings import NormWarnings
from src.callbacks.time_budget import TimeBudget
from src.callbacks.uncompiled import uncompiled


class NormStatistics(Callback):
    """Logs statistics of each norm: of its input, its output, its gradients and its parameters; warns of problems.

    TensorBoard shows them as scalars `norms/<quantity>/<layer>`, as charts by quantity on the page CUSTOM SCALARS, and
    as heat maps of layers against steps on the page IMAGES. The log warns once each of statistics of very few values,
    of a running variance that explodes, and of outputs in eval that are far from those in training.

    The training step itself is measured: nothing is computed twice, and training does not change. With torch.compile, a
    measured step runs uncompiled on every process: its numbers are the same up to rounding, and dropout draws other
    numbers. With several processes, only the first one measures, on its own share of the batch. No process waits for
    another. In gradient accumulation, the first batch of an optimizer step is measured, and the gradients of weights
    are those of all its batches.

    Means and deviations are over all values without padding; norms are roots of sums of squares. The gradient is that
    of the loss with respect to the layer's output. The eval gap is the root mean square difference between a batch
    norm's normalized outputs with running and with batch statistics. A channel is dead or saturated if the next
    activation that runs after the layer has a slope below 0.01 at each value of the batch; activations that are
    functions and not modules are not measured. If a layer runs several times, as in an LSTM, the last run whose input
    has the shape of the first run's input is measured. For sharded models (FSDP), parameters and their gradients are
    left out.

    Args:
        every_n_steps: optimizer steps from one measured step to the next; 0 switches all of this off.
        eval_gap_limit: the eval gap, in deviations, above which the log warns.
    """

    def __init__(self, every_n_steps: int = 50, eval_gap_limit: float = 1.0) -> None:
        if every_n_steps < 0:
            raise ValueError(f"norm_statistics.every_n_steps={every_n_steps}: expected 0 (off) or more")
        self.every_n_steps = every_n_steps
        self._warnings = NormWarnings(eval_gap_limit)
        self._history = History()
        self._drawing = TimeBudget()
        self._found: dict[str, list[str]] = {}  # the layers of each quantity
        self._norms: list[ProbedNorm] = []
        self._step = -1  # the last measured step
        self._probe: NormProbe | None = None
        self._loss_scale = 1.0  # in half precision
        self._after_forward = ExitStack()  # undoes what the forward pass needed

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit" and self.every_n_steps:
            self._norms = find_norms(self._model(pl_module))  # before a strategy wraps the layers

    @staticmethod
    def _model(pl_module: LightningModule) -> nn.Module:
        return getattr(pl_module, "backbone", pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        step = trainer.global_step
        if not self._norms or step % self.every_n_steps or step == self._step:
            return
        self._step = step
        self._after_forward.enter_context(uncompiled(pl_module))
        if trainer.is_global_zero:
            self._probe = NormProbe(self._model(pl_module), self._norms)
            self._after_forward.callback(self._probe.remove)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        self._after_forward.close()
        if self._probe is not None and (scaler := getattr(trainer.precision_plugin, "scaler", None)) is not None:
            self._loss_scale = scaler.get_scale()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._after_forward.close()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        if self._probe is not None and not isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy):
            self._probe.measure_parameters()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._after_forward.close()  # a step without a loss had no backward pass
        if self._probe is None or trainer.global_step == self._step:
            return
        probe, self._probe = self._probe, None
        values = probe.read()
        for key in values:
            if key[0] == "gradient_norm":
                values[key] *= (
                    trainer.accumulate_grad_batches / self._loss_scale
                )  # undo Lightning's scaling of the loss
        self._warnings.look(self._step, probe, values)
        shown = {key: value for key, value in values.items() if key[0] in QUANTITIES}
        self._history.append(self._step, shown)
        for logger in trainer.loggers:
            write(logger, {tag(*key): value for key, value in shown.items()}, self._step)
        if not self._found:
            self._add_charts(trainer, probe, shown)

    def _add_charts(self, trainer: Trainer, probe: NormProbe, shown: dict[tuple[str, str], float]) -> None:
        layers = {key: [norm.name for norm in probe.order if (key, norm.name) in shown] for key in QUANTITIES}
        self._found = {key: names for key, names in layers.items() if names}
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger) and self._found:
                logger.experiment.add_custom_scalars(custom_scalars_layout(self._found))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._drawing.is_due():
            self._draw(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._draw(trainer)

    def _draw(self, trainer: Trainer) -> None:
        loggers = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        if not loggers or len(self._history) < 2:  # a single column is no heat map
            return
        with self._drawing.timed():
            for key, figure in self._history.heat_maps(self._found).items():
                for logger in loggers:
                    logger.experiment.add_figure(f"norms/{key}", figure, self._step)


def write(logger: Logger, scalars: dict[str, float], step: int) -> None:
    """Log hundreds of scalars; for TensorBoard as one event, which takes a tenth of the time of one event for each."""
    if not isinstance(logger, TensorBoardLogger):
        logger.log_metrics(scalars, step)
        return
    from tensorboard.compat.proto.summary_pb2 import Summary  # imported late, so that --help stays fast

    values = [Summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
    logger.experiment._get_file_writer().add_summary(Summary(value=values), step)
