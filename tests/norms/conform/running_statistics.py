"""How running statistics move, and when they are used."""

import torch

from tests.norms.conform.numbers import assert_equal
from tests.norms.conform.registry import check, is_batch_norm, is_drop_in_batch_norm, tracks
from tests.norms.conform.subjects import Subject, pair, plain


@check(is_batch_norm)
def biased_normalizes_unbiased_is_tracked(subject: Subject) -> None:
    """The batch is divided by its biased deviation; the running variance follows the unbiased variance."""
    x = torch.tensor([[0.0], [2.0]], dtype=torch.float64).repeat(1, 64).reshape(2, 64, 1)
    x = x.movedim(1, -1) if subject.channel_dim == -1 else x
    if subject.is_drop_in:
        x = x.reshape(2, 64, *[1] * ({"1d": 1, "2d": 2, "3d": 3}[subject.name[-2:]]))
        layer = subject.ours(64, momentum=1.0, eps=1e-12, dtype=torch.float64)
    else:
        layer = subject.ours(64, subject.channel_dim, dtype=torch.float64)
        layer.momentum, layer.eps = 1.0, 1e-12  # type: ignore[assignment]
    torch.testing.assert_close(layer(x), x - 1)  # biased variance 1
    torch.testing.assert_close(layer.running_var, torch.full((64,), 2.0, dtype=torch.float64))


@check(is_drop_in_batch_norm)
def cumulative_momentum(subject: Subject) -> None:
    """`momentum=None` makes the running statistics the plain average of all batches; 0.0 does not change them."""
    case = plain(subject, momentum=None)
    ours, theirs = pair(subject, case)
    for step in range(5):
        x = case.input * (step + 1)
        ours(x), theirs(x)
    assert_equal(ours.state_dict(), theirs.state_dict(), "momentum=None")
    still = plain(subject, momentum=0.0)
    layer = still.build(subject.ours, torch.float64)
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    layer(still.input)
    after = layer.state_dict()
    assert after.pop("num_batches_tracked") == before.pop("num_batches_tracked") + 1
    assert_equal(after, before, "momentum=0.0", 0)


@check(tracks)
def tracking_toggled_off(subject: Subject) -> None:
    """`track_running_stats=False` set after construction has the same effect as on torch's layer."""
    for training in (True, False):
        case = plain(subject, **({"track_running_stats": True} if subject.is_drop_in else {}))
        ours, theirs = pair(subject, case)
        for layer in (ours, theirs):
            layer.track_running_stats = False  # type: ignore[assignment]
            layer.train(training)
        assert_equal(ours(case.input), theirs(case.input), "output")
        assert_equal(ours.state_dict(), theirs.state_dict(), "buffers")


@check(is_drop_in_batch_norm)
def toggled_off_leaves_buffers(subject: Subject) -> None:
    """With `track_running_stats` toggled off, training moves no buffer."""
    case = plain(subject)
    layer = case.build(subject.ours, torch.float64)
    layer.track_running_stats = False  # type: ignore[assignment]
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    layer(case.input)
    assert_equal(layer.state_dict(), before, "buffers", 0)


@check(is_drop_in_batch_norm)
def no_buffers_means_batch_statistics(subject: Subject) -> None:
    """Without running statistics, eval normalizes by the statistics of the batch."""
    case = plain(subject, track_running_stats=False)
    layer = case.build(subject.ours, torch.float64, training=False)
    y = layer(case.input)
    assert_equal(y, pair(subject, case)[1].eval()(case.input), "eval")
    assert_equal(y, layer.train()(case.input), "training")


@check(tracks)
def buffers_in_place(subject: Subject) -> None:
    """Buffers are updated in place: an EMA or a captured graph that holds a buffer gets its new values."""
    case = plain(subject, **({"track_running_stats": True} if subject.is_drop_in else {}))
    layer = case.build(subject.ours, torch.float64)
    held = dict(layer.named_buffers())
    before = {name: buffer.clone() for name, buffer in held.items()}
    layer(case.input)
    for name, buffer in layer.named_buffers():
        assert buffer is held[name], f"{name} was bound anew"
    assert not torch.equal(held["running_mean"], before["running_mean"])
    assert not any(buffer.requires_grad for buffer in held.values())


@check(is_batch_norm)
def counts_without_gradients(subject: Subject) -> None:
    """`num_batches_tracked` and the statistics move under `no_grad` and `inference_mode`, too; eval moves nothing."""
    case = plain(subject)
    for number, context in enumerate((torch.no_grad, torch.inference_mode)):
        layer = case.build(subject.ours, torch.float64)
        before = {key: value.clone() for key, value in layer.state_dict().items()}
        with context():
            layer(case.input)
        moved = {key for key, value in layer.state_dict().items() if not torch.equal(value, before[key])}
        assert moved == {"running_mean", "running_var", "num_batches_tracked"}, f"{number}: {moved}"
    layer = case.build(subject.ours, torch.float64)
    with torch.no_grad():
        layer(case.input)
    assert layer.num_batches_tracked == 1
    assert layer.num_batches_tracked.dtype == torch.int64  # type: ignore[union-attr]
    layer.eval()
    state = {key: value.clone() for key, value in layer.state_dict().items()}
    layer(case.input)
    assert_equal(layer.state_dict(), state, "eval", 0)


@check(is_batch_norm)
def eval_then_training(subject: Subject) -> None:
    """The gradient of a pass in eval uses the statistics of that pass, even if a later training pass moves them."""
    case = plain(subject)
    layer, alone = (case.build(subject.ours, torch.float64, training=False) for _ in range(2))
    x = case.input.clone().requires_grad_()
    y = layer(x)
    layer.train()(case.input + 1)
    (dx,) = torch.autograd.grad(y.sin().sum(), x)
    assert_equal(dx, torch.autograd.grad(alone(x).sin().sum(), x)[0], "the gradient of the pass in eval")
