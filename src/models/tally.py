"""The sums of a training epoch: each step adds to them without waiting for the device."""

import torch
from torch import Tensor
from torchmetrics import Metric


class Tally(Metric):
    """The mean loss and the accuracy over all samples of all processes since the last `reset`.

    One metric in place of torchmetrics' MeanMetric and MulticlassAccuracy: an update is three additions.
    """

    full_state_update = False
    loss_sum: Tensor
    num_correct: Tensor
    num_samples: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("loss_sum", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("num_correct", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("num_samples", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: its mean loss, its logits `(B, num_classes)` and its labels `(B,)`."""
        # In place: setting an attribute of a Metric costs as much as the addition.
        self.loss_sum.add_(loss, alpha=len(labels))
        self.num_correct.add_((logits.argmax(-1) == labels).sum())
        self.num_samples.add_(len(labels))

    def compute(self) -> tuple[Tensor, Tensor]:
        """The mean loss and the accuracy."""
        return self.loss_sum / self.num_samples, self.num_correct / self.num_samples
