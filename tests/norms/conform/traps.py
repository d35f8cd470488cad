"""What a norm gets wrong while all of PyTorch's own cases pass."""

import re
import warnings
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from src.norms.padding import ReadsPaddingMask
from tests.norms.conform.cases import Case
from tests.norms.conform.check import check, has_reference, tracks
from tests.norms.conform.databases import CONSTRUCTION_ERROR, module_info
from tests.norms.conform.numbers import assert_equal, assert_precise, run
from tests.norms.conform.subjects import Subject


def plain(subject: Subject, **options: Any) -> Case:
    """The layer as it comes, with more arguments, and an input with several values in each mean."""
    if not subject.is_drop_in:
        return subject.cases[0]
    shapes = {"1d": (4, 6, 5), "2d": (4, 6, 5, 3), "3d": (2, 6, 3, 4, 2)}
    arguments = {"GroupNorm": (3, 6), "LayerNorm": (10,), "RMSNorm": (10,)}.get(subject.name, (6,))
    shape = {"GroupNorm": (4, 6, 5, 3)}.get(subject.name) or shapes.get(subject.name[-2:], (4, 6, 10))
    random = torch.Generator().manual_seed(2)
    return Case("plain", arguments, options, torch.randn(shape, generator=random, dtype=torch.float64) * 2 + 1)


def pair(subject: Subject, case: Case, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, nn.Module]:
    return case.build(subject.ours, dtype), case.build(subject.reference(), dtype)


def is_batch_norm(subject: Subject) -> bool:
    return subject.name.startswith("BatchNorm") and has_reference(subject)


def is_drop_in_batch_norm(subject: Subject) -> bool:
    return is_batch_norm(subject) and subject.is_drop_in


def error_of(call: Any) -> tuple[type[Exception], str] | None:
    try:
        call()
    except Exception as error:
        return type(error), str(error)
    return None


@check(has_reference)
def half_statistics_in_float32(subject: Subject) -> None:
    """Half-precision inputs are summed in float32: sums of 10,000 values neither overflow nor stop growing."""
    case = plain(subject)
    scale = 1000.0  # squares are beyond float16
    for dtype in (torch.float16, torch.bfloat16):
        dims_of_size = {"LayerNorm": -1, "RMSNorm": -1}
        if subject.name in dims_of_size:
            x = torch.rand(2, 10_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
            long = Case("10,000 features", (10_000,), {}, x * scale)
        elif subject.is_drop_in:
            size = case.input.shape
            shape = (*size[:-1], 10_000 // size[-2]) if case.input.ndim > 3 else (*size[:-1], 10_000)
            x = torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
            long = Case("10,000 positions", case.args, case.kwargs, x * scale)
        else:
            long = Case(case.name, case.args, case.kwargs, case.input.abs() * scale)
        assert_precise(subject, long, True, dtype, dtype)


@check(lambda subject: has_reference(subject) and "RMSNorm" not in subject.name)
def offset_data(subject: Subject) -> None:
    """Mean 1e4 and spread 1 in float32: no further off than torch's, but for a few units of the mean's digits."""
    case = plain(subject)
    offset = (case.input + 1e4).float()
    exact = case.build(subject.reference(), torch.float64)
    truth = run(exact, offset.double(), torch.float32)
    ours, theirs = (
        run(case.build(module, torch.float32), offset, torch.float32) for module in (subject.ours, subject.reference())
    )
    for name, value in truth.items():
        off, off_by_torch = ((found[name].double() - value).abs().max().item() for found in (ours, theirs))
        size = value.abs().max().item()
        assert off <= max(off_by_torch, 1e-5 * size), f"{name}: off by {off:.2g}, torch's by {off_by_torch:.2g}"


@check(is_batch_norm)
def offset_statistics(subject: Subject) -> None:
    """The running variance of data with mean 1e4 and spread 1 stays right in float32."""
    case = plain(subject)
    offset = (case.input + 1e4).float()
    exact, single = case.build(subject.ours, torch.float64), case.build(subject.ours, torch.float32)
    exact(offset.double()), single(offset)
    assert isinstance(single.running_var, Tensor)
    torch.testing.assert_close(single.running_var.double(), exact.running_var, rtol=1e-3, atol=0.0)


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
    """`momentum=None` makes the running statistics the plain average of all batches; 0.0 leaves them alone."""
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
    """`track_running_stats=False` set after construction does what it does to torch's layer."""
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
    """Without running statistics, eval normalizes by the batch's."""
    case = plain(subject, track_running_stats=False)
    layer = case.build(subject.ours, torch.float64, training=False)
    y = layer(case.input)
    assert_equal(y, pair(subject, case)[1].eval()(case.input), "eval")
    assert_equal(y, layer.train()(case.input), "training")


@check(lambda subject: subject.is_drop_in and subject.name not in ("LayerNorm", "RMSNorm"))
def one_value_in_each_mean(subject: Subject) -> None:
    """One value in each mean raises what it raises in torch's layer, in training and eval."""
    arguments = (6, 6) if subject.name == "GroupNorm" else (6,)
    ranks = {"1d": 3, "2d": 4, "3d": 5}.get(subject.name[-2:], 4)
    x = torch.ones(1, 6, *[1] * (ranks - 2), dtype=torch.float64)
    ours, theirs = pair(subject, Case("one value", arguments, {}, x))
    assert error_of(lambda: theirs(x)) is not None
    for training in (True, False):
        found, expected = (error_of(lambda layer=layer: layer.train(training)(x)) for layer in (ours, theirs))  # noqa: B023
        assert found == expected, f"training={training}: {found} where torch has {expected}"


@check(lambda subject: has_reference(subject) and (subject.is_drop_in or "InstanceNorm" not in subject.name))
def empty_batch(subject: Subject) -> None:
    """A batch of no samples keeps its shape and the statistics, and gives zero parameter gradients."""
    case = plain(subject)
    for training in (True, False):
        layer = case.build(subject.ours, torch.float64, training)
        before = {key: value.clone() for key, value in layer.state_dict().items()}
        found = run(layer, case.input[:0])
        assert found["output"].shape == case.input[:0].shape
        for name, value in found.items():
            assert torch.equal(value, torch.zeros_like(value)), f"{name}: {value}"
        after = layer.state_dict()
        if "num_batches_tracked" in after and is_batch_norm(subject):
            assert after.pop("num_batches_tracked") == before.pop("num_batches_tracked") + training
        assert_equal(after, before, "state", 0)


@check(tracks)
def buffers_in_place(subject: Subject) -> None:
    """Buffers are updated in place: who holds one, as an EMA or a captured graph does, sees it move."""
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


@check(has_reference)
def errors(subject: Subject) -> None:
    """A wrong number of channels, wrong rank or wrong type raises what torch raises."""
    case = plain(subject)
    x = case.input.float()
    wrong = {
        "one channel less": x.narrow(subject.channel_dim, 0, x.shape[subject.channel_dim] - 1),
        "one channel": x.narrow(subject.channel_dim, 0, 1),
        "float64 input": x.double(),
    }
    if subject.is_drop_in:
        wrong |= {"one dimension": x.flatten(), "six dimensions": x.reshape(*x.shape, *[1] * (6 - x.ndim))}
        wrong |= {"no batch": x[0]}
    for training in (True, False):
        for name, value in wrong.items():
            ours, theirs = (layer.train(training) for layer in pair(subject, case, torch.float32))
            with warnings.catch_warnings():  # torch's RMSNorm says that it falls back from its fused form
                warnings.filterwarnings("ignore", "Mismatch dtype between input and weight")
                found, expected = error_of(lambda: ours(value)), error_of(lambda: theirs(value))  # noqa: B023
            if subject.is_drop_in:
                assert found == expected, f"{name}: {found} where torch has {expected}"
            else:  # the families' layers have words of their own
                assert (found is None) == (expected is None), f"{name}: {found} where torch has {expected}"


@check(lambda subject: subject.is_drop_in and module_info(subject.name).module_error_inputs_func is not None)
def errors_of_the_database(subject: Subject) -> None:
    """The error cases of PyTorch's module database raise the same type and message."""
    info = module_info(subject.name)
    for found in info.module_error_inputs_func(info, "cpu", torch.float32, requires_grad=False, training=True):
        made, given = found.module_error_input.constructor_input, found.module_error_input.forward_input

        def call(
            made: Any = made, given: Any = given, at_construction: bool = found.error_on == CONSTRUCTION_ERROR
        ) -> None:
            layer = subject.ours(*made.args, **made.kwargs)
            if not at_construction:
                layer(*given.args)

        raised = error_of(call)
        assert raised is not None, f"{made.args}, {made.kwargs} raises nothing"
        assert issubclass(raised[0], found.error_type), raised
        assert re.search(found.error_regex, raised[1]), raised


@check(is_drop_in_batch_norm)
def eps_not_positive(subject: Subject) -> None:
    """eps <= 0 raises torch's error in training; 0 is allowed in eval."""
    errors = {}
    for eps in (0.0, -1e-5):
        for training in (True, False):
            case = plain(subject, eps=eps)
            ours, theirs = (layer.train(training) for layer in pair(subject, case))
            errors[eps, training] = error_of(lambda: ours(case.input)), error_of(lambda: theirs(case.input))  # noqa: B023
    if errors[0.0, False][1] is not None:  # torch 2.11 has one rule for both, in other words; ours is its successors'
        assert errors.pop((0.0, False))[0] is None
        errors = {key: tuple(error and error[0] for error in both) for key, both in errors.items()}
    for found, expected in errors.values():
        assert found == expected, f"{found} where torch has {expected}"


@check(has_reference)
def without_bias(subject: Subject) -> None:
    """`bias=False` leaves a weight alone; a norm without weight and bias works, too."""
    case = plain(subject)
    for names in (("bias",), ("weight", "bias")):
        ours, theirs = pair(subject, case)
        for layer in (ours, theirs):
            for name in names:
                if name in layer._parameters:
                    layer.register_parameter(name, None)
        assert_equal(run(ours, case.input), run(theirs, case.input), f"without {names}")


@check()
def autocast(subject: Subject) -> None:
    """Under autocast on CPU, outputs and gradients have torch's types; without a layer of torch's, the input's."""
    case = plain(subject)
    for autocast_dtype in (torch.bfloat16, torch.float16):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            found = [(dtype, dtype)] if subject.theirs is None else []
            for make in (subject.ours, subject.theirs):
                if make is not None:
                    x = case.input.to(dtype).requires_grad_()
                    with torch.autocast("cpu", dtype=autocast_dtype):
                        y = case.build(make, torch.float32)(x)
                    (dx,) = torch.autograd.grad(y.float().square().sum(), x)
                    found.append((y.dtype, dx.dtype))
            assert found[0] == found[1], f"{dtype} under {autocast_dtype}: {found}"


@check(lambda subject: subject.name == "RMSNorm")
def machine_epsilon(subject: Subject) -> None:
    """`eps=None` is the machine epsilon of the type computed in: float32's for the half types."""
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        x = torch.full((1, 10), 3e-4, dtype=dtype)
        ours, theirs = (make(10, eps=None, dtype=dtype)(x) for make in (subject.ours, subject.reference()))
        torch.testing.assert_close(ours, theirs)


@check(has_reference)
def constant_input(subject: Subject) -> None:
    """Where all values are the same, eps keeps output and gradients finite, and equal to torch's."""
    case = plain(subject)
    constant = torch.full_like(case.input, 3.0)
    ours, theirs = (run(layer, constant) for layer in pair(subject, case))
    assert_equal(ours, theirs, "constant input", 1e-7)
    assert all(torch.isfinite(value).all() for value in ours.values())


@check(has_reference)
def not_finite(subject: Subject) -> None:
    """A NaN or infinity reaches exactly the values that it reaches in torch's layer."""
    case = plain(subject)
    for bad in (float("nan"), float("inf")):
        x = case.input.clone()
        x.view(-1)[7] = bad
        ours, theirs = (layer(x) for layer in pair(subject, case))
        assert torch.equal(ours.isfinite(), theirs.isfinite()), bad


@check()
def keeps_its_input(subject: Subject) -> None:
    """The input is not written to; the output does not change with it afterwards."""
    for training in (True, False):
        case = plain(subject)
        x = case.input.clone()
        y = case.build(subject.ours, torch.float64, training)(x)
        assert torch.equal(x, case.input)
        if not subject.name.startswith("Identity"):
            kept = y.clone()
            x.zero_()
            assert torch.equal(y, kept)


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
    """What stands at padded positions, and how many there are, changes no output, gradient or statistic."""
    case = subject.cases[0]
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]).bool()
    found = []
    for fill in (0.0, 100.0, None):
        layer = case.build(subject.ours, torch.float64)
        valid = mask
        x = case.input.masked_fill(~mask[..., None], 0.0 if fill is None else fill)
        if fill is None:  # two more padded positions
            x, valid = nn.functional.pad(x, (0, 0, 0, 2), value=-7.0), nn.functional.pad(mask, (0, 2))
        if isinstance(layer, ReadsPaddingMask):
            layer.padding_mask = valid
        x.requires_grad_()
        y = layer(x)[valid]
        dy = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).sin().reshape(y.shape)
        gradients = torch.autograd.grad(y, [x, *layer.parameters()], dy)
        found.append((y.detach(), gradients[0][valid], gradients[1:], dict(layer.named_buffers())))
        assert not gradients[0][~valid].any(), "a gradient at padding"
    assert_equal(found[1], found[0], "another value at padding")
    assert_equal(found[2], found[0], "more padding")
    if subject.theirs is not None:
        theirs = case.build(subject.theirs, torch.float64)
        if isinstance(theirs, ReadsPaddingMask):
            theirs.padding_mask = mask
        assert_equal(theirs(case.input)[mask], found[0][0], "torch's on what is not padding")
        assert_equal(dict(theirs.named_buffers()), found[0][3], "torch's statistics")


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
    """What is kept for the backward pass is what torch's keeps, within 0.05 of the input's bytes."""
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


@check(is_batch_norm)
def eval_then_training(subject: Subject) -> None:
    """One loss over a pass in eval and a later one in training: the first is differentiated by what it has used."""
    case = plain(subject)
    layer, alone = (case.build(subject.ours, torch.float64, training=False) for _ in range(2))
    x = case.input.clone().requires_grad_()
    y = layer(x)
    layer.train()(case.input + 1)
    (dx,) = torch.autograd.grad(y.sin().sum(), x)
    assert_equal(dx, torch.autograd.grad(alone(x).sin().sum(), x)[0], "the gradient of the pass in eval")


@check()
def batched_gradients(subject: Subject) -> None:
    """Many gradients at once (`is_grads_batched`) are those that one after the other gives, in any memory format."""
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


@check(lambda subject: not subject.name.startswith("Identity"))
def output_is_no_view(subject: Subject) -> None:
    """What is done to the output in place is allowed wherever it is allowed after torch's layer."""
    case = plain(subject)
    layer = case.build(subject.ours, torch.float64)
    with torch.no_grad():
        y = layer(case.input)
    y.mul_(torch.ones((), dtype=y.dtype, requires_grad=True))
    layer(case.input).detach_()
    layer(case.input.clone().requires_grad_()).relu_().sum().backward()


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
