"""An output depends only on its own sample, and on no padding."""

import threading

import torch
from torch import Tensor, nn

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
    case, padding_mask = subject.cases[0], subject.norms.padding.padding_mask
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


@check()
def serves_threads(subject: Subject) -> None:
    """In eval, two threads that call one layer at the same time, each with its own padding, get their own answers."""
    case, padding_mask = subject.cases[0], subject.norms.padding.padding_mask
    layer = case.build(subject.ours, torch.float64, training=False)
    inputs = [case.input, case.input.flip(0) * 2 + 1]
    masks = [None, None]
    if subject.channel_dim == -1 and not subject.is_drop_in:
        lengths = torch.tensor([[3], [5], [2]])
        masks = [torch.arange(5) < lengths, torch.arange(5) < lengths.flip(0)]
    right, found = [], [torch.empty(0)] * 2
    for x, mask in zip(inputs, masks, strict=True):
        with padding_mask(mask):
            right.append(layer(x))
    both = threading.Barrier(2, timeout=60)

    def serve(number: int, x: Tensor, mask: Tensor | None) -> None:
        with torch.no_grad():
            for _ in range(3):
                with padding_mask(mask):
                    both.wait()
                    found[number] = layer(x)
                    both.wait()  # neither leaves the block before both have called the layer

    threads = [threading.Thread(target=serve, args=(n, inputs[n], masks[n])) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_equal(found, right, case.name)
