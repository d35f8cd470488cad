"""An output depends only on its own sample, and on no padding."""

import torch
from torch import nn

from src.norms.padding import padding_mask
from tests.norms.conform.numbers import assert_equal
from tests.norms.conform.registry import check, is_batch_norm
from tests.norms.conform.subjects import Subject


@check()
def eval_sees_one_sample(subject: Subject) -> None:
    """In eval the output for a sample does not depend on the others in its batch."""
    case = subject.cases[0]
    layer = case.build(subject.ours, torch.float64, training=False)
    if getattr(layer, "track_running_stats", True) is False and is_batch_norm(subject):
        return
    assert_equal(layer(case.input[:1]), layer(case.input)[:1], case.name)


@check(lambda subject: subject.channel_dim == -1 and not subject.is_drop_in)
def padding(subject: Subject) -> None:
    """The values and the number of padded positions change no output, gradient or statistic."""
    case = subject.cases[0]
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]).bool()
    found = []
    for fill in (0.0, 100.0, None):
        layer = case.build(subject.ours, torch.float64)
        valid = mask
        x = case.input.masked_fill(~mask[..., None], 0.0 if fill is None else fill)
        if fill is None:  # two more padded positions
            x, valid = nn.functional.pad(x, (0, 0, 0, 2), value=-7.0), nn.functional.pad(mask, (0, 2))
        x.requires_grad_()
        with padding_mask(valid):
            y = layer(x)[valid]
        dy = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).sin().reshape(y.shape)
        gradients = torch.autograd.grad(y, [x, *layer.parameters()], dy)
        found.append((y.detach(), gradients[0][valid], gradients[1:], dict(layer.named_buffers())))
        assert not gradients[0][~valid].any(), "a gradient at padding"
    assert_equal(found[1], found[0], "another value at padding")
    assert_equal(found[2], found[0], "more padding")
    if subject.theirs is not None:
        theirs = case.build(subject.theirs, torch.float64)
        with padding_mask(mask):
            assert_equal(theirs(case.input)[mask], found[0][0], "torch's on what is not padding")
        assert_equal(dict(theirs.named_buffers()), found[0][3], "torch's statistics")
