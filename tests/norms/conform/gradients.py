"""How a layer takes part in autograd: what it keeps, and what may be done with its input, output and gradients."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from tests.norms.conform.cases import Case
from tests.norms.conform.numbers import assert_equal, run
from tests.norms.conform.registry import check, has_reference
from tests.norms.conform.subjects import Subject, pair, plain


def saved_ratio(layer: nn.Module, x: Tensor) -> float:
    """Bytes that the layer keeps for its backward pass, each storage once, over those of its input."""
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    x = x.detach().requires_grad_()
    with saved_tensors_hooks(note, lambda tensor: tensor):
        y = layer(x)
    y.sum().backward()
    return sum(kept.values()) / (x.numel() * x.element_size())


@check(has_reference)
def saved_bytes(subject: Subject) -> None:
    """It keeps at most 0.05 of the input's bytes more for the backward pass than torch's layer."""
    sizes = {"1d": (16, 64, 64), "2d": (16, 64, 8, 8), "3d": (8, 64, 4, 4, 4)}
    if subject.is_drop_in:
        shape = sizes.get(subject.name[-2:], (16, 64, 256) if "Group" not in subject.name else (16, 64, 8, 8))
        args = {"GroupNorm": (8, 64), "LayerNorm": (256,), "RMSNorm": (256,)}.get(subject.name, (64,))
        case = Case("large", args, {}, torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    else:
        shape = (2, 2048, 8, 8) if subject.channel_dim == 1 else (4, 64, 2048)
        case = Case(
            "large", (2048, subject.channel_dim), {}, torch.randn(shape, generator=torch.Generator().manual_seed(0))
        )
    for dtype in (torch.float32, torch.bfloat16):
        for training in (True, False):
            ours, theirs = (
                saved_ratio(case.build(make, dtype, training), case.input.to(dtype))
                for make in (subject.ours, subject.reference())
            )
            assert ours <= theirs + 0.05, f"{dtype}, training={training}: {ours:.2f} where torch keeps {theirs:.2f}"


@check()
def keeps_its_input(subject: Subject) -> None:
    """The layer does not write to its input; a later change of the input does not change the output."""
    for training in (True, False):
        case = plain(subject)
        x = case.input.clone()
        y = case.build(subject.ours, torch.float64, training)(x)
        assert torch.equal(x, case.input)
        if not subject.name.startswith("Identity"):
            kept = y.clone()
            x.zero_()
            assert torch.equal(y, kept)


@check(lambda subject: not subject.name.startswith("Identity"))
def output_is_no_view(subject: Subject) -> None:
    """In-place operations on the output are allowed wherever they are allowed after torch's layer."""
    case = plain(subject)
    layer = case.build(subject.ours, torch.float64)
    with torch.no_grad():
        y = layer(case.input)
    y.mul_(torch.ones((), dtype=y.dtype, requires_grad=True))
    layer(case.input).detach_()
    layer(case.input.clone().requires_grad_()).relu_().sum().backward()


@check(has_reference)
def without_bias(subject: Subject) -> None:
    """`bias=False` leaves only a weight; a norm without weight and bias works, too."""
    case = plain(subject)
    for names in (("bias",), ("weight", "bias")):
        ours, theirs = pair(subject, case)
        for layer in (ours, theirs):
            for name in names:
                if name in layer._parameters:
                    layer.register_parameter(name, None)
        assert_equal(run(ours, case.input), run(theirs, case.input), f"without {names}")


@check()
def batched_gradients(subject: Subject) -> None:
    """Batched gradients (`is_grads_batched`) equal the gradients computed one by one, in any memory format."""
    case = plain(subject)
    inputs = [case.input]
    if case.input.ndim == 4:
        inputs.append(case.input.contiguous(memory_format=torch.channels_last))
    for training in (True, False):
        layer = case.build(subject.ours, torch.float64, training)
        for x in inputs:
            x = x.detach().requires_grad_()
            y = layer(x)
            given = torch.stack([y.detach().sin().contiguous(), y.detach().cos().contiguous()])
            (together,) = torch.autograd.grad(y, x, given, is_grads_batched=True, retain_graph=True)
            single = [torch.autograd.grad(y, x, dy, retain_graph=True)[0] for dy in given]
            assert_equal(together, torch.stack(single), f"training={training}")


@check()
def is_checkpointed_selectively(subject: Subject) -> None:
    """Selective activation checkpointing gives the gradients of a plain pass, whatever operations it keeps."""
    aten = torch.ops.aten
    for kept in ({aten.mul.Tensor}, {aten.view.default}, {aten.mean.dim, aten.sub.Tensor}):

        def policy(context: Any, operation: Any, *args: Any, kept: Any = kept, **kwargs: Any) -> CheckpointPolicy:
            return CheckpointPolicy.MUST_SAVE if operation in kept else CheckpointPolicy.PREFER_RECOMPUTE

        case = plain(subject)
        found = []
        for checkpointed in (True, False):
            layers = [case.build(subject.ours, torch.float64) for _ in range(2)]
            block = nn.Sequential(layers[0], nn.SiLU(), layers[1], nn.SiLU())
            x = case.input.clone().requires_grad_()
            contexts = partial(create_selective_checkpoint_contexts, policy)
            y = checkpoint(block, x, use_reentrant=False, context_fn=contexts) if checkpointed else block(x)
            y.sin().sum().backward()
            gradients = {name: p.grad for name, p in block.named_parameters()}
            found.append(({"x": x.grad, **gradients}, dict(block.named_buffers())))
        assert_equal(*found, f"{kept}")
