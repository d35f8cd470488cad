"""A loss that is not finite is traced to the layer that causes it."""

import pytest
import torch
from lightning import seed_everything
from torch import nn

from src.callbacks import FiniteLoss
from tests.helpers.small_net import Net, batches, fit, warnings_in


@pytest.mark.parametrize("compile", [False, True])
def test_a_loss_that_is_not_finite_is_traced_to_its_layer_once(compile: bool, caplog: pytest.LogCaptureFixture) -> None:
    model = Net(compile=compile, lr=0.0)
    nn.init.constant_(model.backbone[0].weight, 2.0)  # type: ignore[arg-type]
    fit(model, [*batches(2), *((torch.full_like(x, 3e38), labels) for x, labels in batches(3))], FiniteLoss())
    (message,) = warnings_in(caplog)
    found = "It appeared first in the output of layer 'backbone.0' (Linear): its input reaches 3e+38."
    assert message.startswith(f"step 2: the loss is nan. {found} Lower --model.recipe.lr")


def test_seeking_the_layer_moves_nothing(caplog: pytest.LogCaptureFixture) -> None:
    data = [*batches(2), *((torch.full_like(x, 3e38), labels) for x, labels in batches(1))]
    ends = []
    for callbacks in ([], [FiniteLoss()]):
        seed_everything(0)
        model = Net()
        fit(model, data, *callbacks)
        ends.append((model.backbone[1].num_batches_tracked, torch.get_rng_state()))
    assert ends[0][0] == ends[1][0] == 3
    assert torch.equal(ends[0][1], ends[1][1])


def test_weights_that_are_not_finite_are_named(caplog: pytest.LogCaptureFixture) -> None:
    model = Net()
    with torch.no_grad():
        model.backbone[4].bias[0] = float("inf")
    fit(model, batches(2), FiniteLoss())
    (message,) = warnings_in(caplog)
    assert "output of layer 'backbone.4' (Linear): not finite any more: its bias." in message
