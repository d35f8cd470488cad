"""Optimizers and schedules."""

import pytest
import torch
from torch import nn

from src.models import Recipe


def rates(recipe: Recipe, num_steps: int) -> list[float]:
    """The learning rate of each step."""
    optimizer = recipe.build_optimizer(nn.Linear(2, 2).parameters())
    schedule = recipe.build_schedule(optimizer, num_steps)
    seen = []
    for _ in range(num_steps):
        seen.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step() if len(seen) < num_steps else None
    return seen


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle"])
def test_rises_over_the_warm_up_and_falls_to_nothing(schedule: str) -> None:
    lrs = rates(Recipe(lr=0.5, schedule=schedule, warmup=0.2), 100)  # type: ignore[arg-type]
    peak = lrs.index(max(lrs))
    assert 18 <= peak <= 21
    assert max(lrs) == pytest.approx(0.5)
    assert lrs[:peak] == sorted(lrs[:peak])
    assert lrs[peak:] == sorted(lrs[peak:], reverse=True)
    assert 0 < lrs[0] < 0.05
    assert 0 <= lrs[-1] < 0.001


def test_constant_after_the_warm_up() -> None:
    assert rates(Recipe(lr=0.5, schedule="constant", warmup=0.0), 5) == [0.5] * 5


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle", "constant"])
@pytest.mark.parametrize("num_steps", range(1, 11))
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.2, 0.25, 0.3, 0.5])
def test_a_few_steps_are_enough(schedule: str, num_steps: int, warmup: float) -> None:
    lrs = rates(Recipe(schedule=schedule, warmup=warmup), num_steps)  # type: ignore[arg-type]
    assert all(0 <= lr <= 0.1 for lr in lrs)


def test_decay_is_by_shape() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 2))
    decayed, others = Recipe(weight_decay=0.1).build_optimizer(model.parameters()).param_groups
    assert [p.ndim for p in decayed["params"]] == [4, 2]
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    assert {p.ndim for p in others["params"]} == {1}


def test_optimizers() -> None:
    parameters = [nn.Parameter(torch.zeros(2, 2))]
    sgd = Recipe(optimizer="sgd", momentum=0.8).build_optimizer(parameters)
    assert isinstance(sgd, torch.optim.SGD)
    assert (sgd.defaults["nesterov"], sgd.defaults["momentum"]) == (True, 0.8)
    assert isinstance(Recipe(optimizer="adamw").build_optimizer(parameters), torch.optim.AdamW)
