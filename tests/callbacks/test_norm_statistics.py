"""NormStatistics logs the values of a computation by hand, and does not change training."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, seed_everything
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from src.callbacks import FiniteLoss, NormStatistics
from src.callbacks.norm_charts import QUANTITIES
from src.norms import NORMS, BatchNorm1d
from tests.helpers.small_net import Net, batches, fit, scalars
from tests.helpers.train_jobs import run_jobs


def test_the_numbers_are_those_of_a_hand_computation(tmp_path: Path) -> None:
    """The second of three measured steps is compared with SGD by hand, with torch's own layer."""
    seed_everything(0)
    model = Net(nn.BatchNorm1d(4))
    model.backbone[3] = nn.Identity()
    data = batches()
    linear, norm, head = model.backbone[0], model.backbone[1], model.backbone[4]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    fit(model, data, NormStatistics(every_n_steps=2), folder=tmp_path)
    found = scalars(tmp_path)

    model.load_state_dict(state)
    model.train()
    optimizer = model.configure_optimizers()
    for step in range(3):
        x, labels = data[step]
        before = linear(x)
        after = norm(before)
        after.retain_grad()
        loss = nn.functional.cross_entropy(head(torch.relu(after)), labels)
        optimizer.zero_grad()
        loss.backward()
        if step < 2:
            optimizer.step()
    normalized = (before - before.mean(0)) / (before.var(0, correction=0) + norm.eps).sqrt()
    in_eval = (before - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
    expected = {
        "input_mean": before.mean(),
        "input_std": before.std(correction=0),
        "output_mean": after.mean(),
        "output_std": after.std(correction=0),
        "gradient_norm": after.grad.norm(),
        "weight_norm": norm.weight.norm(),
        "bias_norm": norm.bias.norm(),
        "weight_gradient_norm": norm.weight.grad.norm(),
        "bias_gradient_norm": norm.bias.grad.norm(),
        "eval_gap": (in_eval - normalized).square().mean().sqrt(),
        "stuck_share": (after < 0).all(0).float().mean(),
    }
    assert set(found) == {f"{name}/1" for name in expected}
    assert set(expected) == set(QUANTITIES)
    for name, value in expected.items():
        assert [step for step, _ in found[f"{name}/1"]] == [0, 2, 4]
        assert found[f"{name}/1"][1][1] == pytest.approx(value.item(), rel=1e-4, abs=1e-6), name


def test_nothing_in_training_changes() -> None:
    """Weights, running statistics and random numbers stay equal to the bit, also with activation checkpointing."""
    layers: list[Callable[[], nn.Module]] = [
        partial(BatchNorm1d, 4),
        partial(nn.LayerNorm, 4),
        partial(NORMS["DynamicTanh"], 4, channel_dim=-1),
        partial(NORMS["Identity"], 4, channel_dim=-1),
    ]
    for layer, repeat in [*((layer, False) for layer in layers), (layers[0], True)]:
        ends = []
        for callbacks in ([], [NormStatistics(every_n_steps=1), FiniteLoss()]):
            seed_everything(0)
            model = Net(layer(), repeat=repeat)
            fit(model, batches(), *callbacks)
            assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
            ends.append([*model.state_dict().values(), torch.get_rng_state()])
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(*ends, strict=True)), layer


def test_a_compiled_model_gives_the_same_numbers_and_is_not_compiled_again(tmp_path: Path) -> None:
    found = {}
    for compile in (False, True):
        torch.compiler.reset()
        torch._dynamo.utils.counters.clear()
        seed_everything(0)
        model = Net(compile=compile)
        model.backbone[3] = nn.Identity()
        seen = CompiledSteps()
        fit(model, batches(), NormStatistics(every_n_steps=3), seen, folder=tmp_path / str(compile))
        found[compile] = scalars(tmp_path / str(compile))
    assert seen.graphs == [0, 1, 1, 1, 1, 1]  # the first step is measured, so it runs uncompiled
    assert found[True].keys() == found[False].keys()
    for tag, values in found[False].items():
        assert [v for _, v in found[True][tag]] == pytest.approx([v for _, v in values], rel=1e-4, abs=1e-6), tag


class CompiledSteps(Callback):
    """Records the number of compiled graphs after each step."""

    def __init__(self) -> None:
        self.graphs: list[int] = []

    def on_train_batch_end(self, *args: Any) -> None:
        self.graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def test_the_gradient_is_the_losss_in_gradient_accumulation_too(tmp_path: Path) -> None:
    found = []
    for count in (1, 3):
        seed_everything(0)
        model = Net()
        model.backbone[3] = nn.Identity()
        fit(
            model,
            batches(),
            NormStatistics(every_n_steps=1),
            folder=tmp_path / str(count),
            accumulate_grad_batches=count,
        )
        found.append(scalars(tmp_path / str(count))["gradient_norm/1"][0][1])
    assert found[1] == pytest.approx(found[0], rel=1e-5)


FEW = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=4", "--data.batch_size=16", "--model.width=8"]
FEW += ["--trainer.limit_val_batches=1", "--trainer.limit_test_batches=1", "--norm_statistics.every_n_steps=2"]


@pytest.mark.parametrize("sync", [pytest.param("false", marks=pytest.mark.slow), "true"])
def test_two_processes(tmp_path: Path, sync: str) -> None:
    """The first process logs. The weights are equal with and without statistics, and no process hangs."""
    command = ["fit", "--config=configs/digits.yaml", *FEW, f"--trainer.sync_batchnorm={sync}"]
    jobs = [(2, command), (2, [*command, "--norm_statistics.every_n_steps=0", "--experiment=off"])]
    for done in run_jobs(tmp_path, jobs):
        assert done.codes == [0, 0], done.shown
    found = EventAccumulator(str(tmp_path / "runs/digits/version_0")).Reload()
    steps = {tag: [e.step for e in found.Scalars(tag)] for tag in found.Tags()["scalars"] if tag.startswith("norms/")}
    assert len(steps) == 20 * len(QUANTITIES)
    assert all(value == [0, 2] for value in steps.values())
    off = EventAccumulator(str(tmp_path / "runs/off/version_0")).Reload()
    assert not any(tag.startswith("norms/") for tag in off.Tags()["scalars"])
    states = [
        torch.load(tmp_path / f"runs/{name}/version_0/checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for name in ("digits", "off")
    ]
    torch.testing.assert_close(*states, rtol=0, atol=0)
