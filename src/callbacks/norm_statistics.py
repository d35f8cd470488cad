"""What the norms of a network do while it trains."""

from contextlib import ExitStack
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from torch import Tensor, nn

from src.callbacks.norm_charts import QUANTITIES, History, layout, tag
from src.callbacks.norm_probe import Place, Watch, find_places
from src.callbacks.norm_warnings import NormWarnings
from src.callbacks.time_budget import Seldom
from src.callbacks.uncompiled import uncompiled


class NormStatistics(Callback):
    """Logs, of each norm and of what took its place: input, output, gradients, parameters, and what goes wrong.

    In TensorBoard as scalars `norms/<quantity>/<layer>`, on the page CUSTOM SCALARS by quantity, and as a heat map of
    layers against steps on the page IMAGES. In the log, once each: statistics of very few values, a running variance
    that explodes, and outputs in eval that are far from those in training.

    The figures are of the training step itself, so nothing is computed twice and nothing in training changes. With
    torch.compile a step that is watched runs uncompiled, on every process: the same up to rounding, with other draws
    of dropout. Of several processes the first one looks at its own share of the batch, and none waits for another.
    In gradient accumulation it is the first batch of the optimizer step, and the gradients of weights are of all.

    Means and deviations are over all values, padding left out; norms are roots of sums of squares. The gradient is the
    loss's at the layer's output. The eval gap is the root mean square difference between a batch norm's normalized
    outputs with running and with batch statistics. A channel is dead or saturated where the next activation that runs
    after the layer has a slope below 0.01 at each value of the batch; activations that are functions and not modules
    are not seen. Of a layer that runs several times, such as an LSTM's, it is the last run on as many values as the
    first one's. Of sharded models (FSDP) parameters and their gradients are left out.

    Args:
        every_n_steps: optimizer steps from one that is watched to the next; 0 switches all of this off.
        eval_gap_limit: eval gap, in deviations, above which the log warns.
    """

    def __init__(self, every_n_steps: int = 50, eval_gap_limit: float = 1.0) -> None:
        if every_n_steps < 0:
            raise ValueError(f"norm_statistics.every_n_steps={every_n_steps}: expected 0 (off) or more")
        self.every_n_steps = every_n_steps
        self._warnings = NormWarnings(eval_gap_limit)
        self._history = History()
        self._drawing = Seldom()
        self._found: dict[str, list[str]] = {}  # the layers of each quantity
        self._places: list[Place] = []
        self._step = -1  # the last that was watched
        self._watch: Watch | None = None
        self._scale = 1.0  # of the loss, in half precision
        self._forward = ExitStack()  # what is undone after it

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit" and self.every_n_steps:
            self._places = find_places(self._model(pl_module))  # before a strategy wraps the layers

    @staticmethod
    def _model(pl_module: LightningModule) -> nn.Module:
        return getattr(pl_module, "backbone", pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        step = trainer.global_step
        if not self._places or step % self.every_n_steps or step == self._step:
            return
        self._step = step
        self._forward.enter_context(uncompiled(pl_module))
        if trainer.is_global_zero:
            self._watch = Watch(self._model(pl_module), self._places)
            self._forward.callback(self._watch.remove)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        self._forward.close()
        if self._watch is not None and (scaler := getattr(trainer.precision_plugin, "scaler", None)) is not None:
            self._scale = scaler.get_scale()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._forward.close()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        if self._watch is not None and not isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy):
            self._watch.look_at_parameters()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._forward.close()  # in case of a step without a loss
        if self._watch is None or trainer.global_step == self._step:
            return
        watch, self._watch = self._watch, None
        values = watch.read()
        for key in values:
            if key[0] == "gradient_norm":
                values[key] *= trainer.accumulate_grad_batches / self._scale  # by which Lightning divides the loss
        self._warnings.look(self._step, watch, values)
        shown = {key: value for key, value in values.items() if key[0] in QUANTITIES}
        self._history.append(self._step, shown)
        for logger in trainer.loggers:
            write(logger, {tag(*key): value for key, value in shown.items()}, self._step)
        if not self._found:
            self._lay_out(trainer, watch, shown)

    def _lay_out(self, trainer: Trainer, watch: Watch, shown: dict[tuple[str, str], float]) -> None:
        layers = {key: [place.name for place in watch.order if (key, place.name) in shown] for key in QUANTITIES}
        self._found = {key: names for key, names in layers.items() if names}
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger) and self._found:
                logger.experiment.add_custom_scalars(layout(self._found))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._drawing.is_due():
            self._draw(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._draw(trainer)

    def _draw(self, trainer: Trainer) -> None:
        loggers = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        if not loggers or len(self._history) < 2:  # one column is no map
            return
        with self._drawing.timed():
            for key, figure in self._history.heat_maps(self._found).items():
                for logger in loggers:
                    logger.experiment.add_figure(f"norms/{key}", figure, self._step)


def write(logger: Logger, scalars: dict[str, float], step: int) -> None:
    """Log some hundred scalars; in TensorBoard as one event, which takes a tenth of the time of one for each."""
    if not isinstance(logger, TensorBoardLogger):
        logger.log_metrics(scalars, step)
        return
    from tensorboard.compat.proto.summary_pb2 import Summary  # which help and mistakes do not need

    values = [Summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
    logger.experiment._get_file_writer().add_summary(Summary(value=values), step)
