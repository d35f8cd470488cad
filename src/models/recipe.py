"""How a classifier is trained: loss, optimizer and schedule."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler


@dataclass(frozen=True)
class Recipe:
    """How a classifier is trained.

    Args:
        optimizer: sgd (with Nesterov momentum) or adamw.
        lr: the peak of the learning rate.
        momentum: the momentum of sgd.
        weight_decay: decay of parameters of two or more dimensions; vectors (biases, weights of norms) do not decay.
        schedule: cosine (linear warm-up, then half a cosine to 0), one_cycle (half a cosine up from lr / 25, then half
            a cosine to 0; arXiv 1708.07120) or constant (after the warm-up).
        warmup: the share of all steps in which the learning rate rises.
        label_smoothing: the probability that is spread evenly over the classes (arXiv 1512.00567).
    """

    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: Literal["cosine", "one_cycle", "constant"] = "cosine"
    warmup: float = 0.1
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        expected = {
            "lr": (self.lr > 0, "a number above 0"),
            "momentum": (0 <= self.momentum < 1, "0 <= momentum < 1"),
            "weight_decay": (self.weight_decay >= 0, "0 or more"),
            "warmup": (0 <= self.warmup < 1, "a share of the steps, 0 <= warmup < 1"),
            "label_smoothing": (0 <= self.label_smoothing < 1, "0 <= label_smoothing < 1"),
        }
        for name, (fits, wanted) in expected.items():
            if not fits:
                raise ValueError(f"recipe.{name}={getattr(self, name)}: expected {wanted}")

    def build_loss(self) -> nn.Module:
        """Cross-entropy over logits `(B, num_classes)` and labels `(B,)`."""
        return nn.CrossEntropyLoss(label_smoothing=self.label_smoothing)

    def build_optimizer(
        self, parameters: Iterable[nn.Parameter], num_dims: Mapping[nn.Parameter, int] | None = None
    ) -> Optimizer:
        """The optimizer; its parameter groups depend only on shapes, so that every norm gets the same groups.

        Args:
            parameters: all parameters of the model; frozen ones are left out.
            num_dims: the number of dimensions of each parameter before a strategy sharded it, which may flatten it;
                None: the number that it has.
        """
        trained = {p: p.ndim if num_dims is None else num_dims[p] for p in parameters if p.requires_grad}
        groups = [
            {"params": [p for p, dims in trained.items() if dims >= 2], "weight_decay": self.weight_decay},
            {"params": [p for p, dims in trained.items() if dims < 2], "weight_decay": 0.0},
        ]
        # On a CPU a fused step is one pass over the weights in place of five. On a GPU torch's default is as fast.
        fused = True if all(p.device.type == "cpu" for p in trained) else None
        if self.optimizer == "sgd":
            return SGD(groups, lr=self.lr, momentum=self.momentum, nesterov=self.momentum > 0, fused=fused)
        return AdamW(groups, lr=self.lr, fused=fused)

    def build_schedule(self, optimizer: Optimizer, num_steps: int) -> LRScheduler:
        """The learning rate over `num_steps` optimizer steps."""
        # torch's OneCycleLR keeps the number of steps in its state, which would override the command on resuming.
        return LambdaLR(optimizer, partial(self._factor, num_steps=num_steps))

    def _factor(self, step: int, num_steps: int) -> float:
        """The learning rate at a step as a share of its peak."""
        num_warmup = round(self.warmup * num_steps)
        if step < num_warmup:
            progress = (step + 1) / (num_warmup + 1)
            return 0.04 + 0.96 * (1 - math.cos(math.pi * progress)) / 2 if self.schedule == "one_cycle" else progress
        if self.schedule == "constant":
            return 1.0
        return (1 + math.cos(math.pi * (step - num_warmup) / max(1, num_steps - num_warmup))) / 2
