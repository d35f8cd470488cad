"""A norm with the tools that take modules: compilers, exporters, function transforms, checkpointing, averaging."""

import copy
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.export import Dim
from torch.func import functional_call, grad, replace_all_batch_norm_modules_, stack_module_state, vmap
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from tests.norms.conform.cases import Case
from tests.norms.conform.registry import check
from tests.norms.conform.subjects import Subject


def typical(subject: Subject) -> list[Case]:
    """The first case of several samples that runs, for each rank, with and without running statistics."""
    chosen: dict[tuple[int, bool], Case] = {}
    for case in subject.cases:
        if case.training is None and len(case.input) > 1 and "no_batch_dim" not in case.name:
            layer = case.build(subject.reference(), torch.float64)
            try:
                layer(case.input)
            except ValueError:  # instance normalization of one vector per sample
                continue
            chosen.setdefault((case.input.ndim, tracks(layer)), case)
    assert chosen, "no case of several samples"
    return list(chosen.values())


def tracks(layer: nn.Module) -> bool:
    return getattr(layer, "running_mean", None) is not None


def has_parameters(subject: Subject) -> bool:
    return all(list(case.build(subject.ours, torch.float32).parameters()) for case in typical(subject))


def some_track(subject: Subject) -> bool:
    """Whether a typical layer keeps running statistics."""
    return any(tracks(case.build(subject.reference(), torch.float64)) for case in typical(subject))


def is_batch_norm(subject: Subject) -> bool:
    """Whether torch's tools have to recognize it as a batch norm."""
    return subject.theirs is not None and isinstance(subject.cases[0].build(subject.theirs, torch.float64), _BatchNorm)


def tracking(subject: Subject) -> list[Case]:
    return [case for case in typical(subject) if tracks(case.build(subject.reference(), torch.float64))]


def layers(subject: Subject, cases: list[Case] | None = None) -> Iterator[tuple[nn.Module, Tensor]]:
    """Each case's layer and input, in training and in eval."""
    for case in typical(subject) if cases is None else cases:
        for training in case.modes():
            yield case.build(subject.ours, torch.float64, training), case.input


@dataclass
class Step:
    """The results of a call and its backward pass."""

    output: Tensor
    gradients: dict[str, Tensor | None]
    buffers: dict[str, Tensor]


def step(layer: nn.Module, call: Callable[..., Tensor], x: Tensor) -> Step:
    """`call(x)`, differentiated for the input and the parameters of `layer`."""
    x = x.detach().clone().requires_grad_()
    layer.zero_grad()
    y = call(x)
    (y * torch.linspace(-1, 2, y.numel(), dtype=y.dtype).reshape(y.shape).sin()).sum().backward()
    assert not any(buffer.requires_grad for buffer in layer.buffers()), "a buffer carries a gradient"
    gradients = {"input": x.grad, **{name: p.grad for name, p in layer.named_parameters()}}
    return Step(y.detach(), gradients, {name: b.clone() for name, b in layer.named_buffers()})


def assert_same_step(ours: Step, theirs: Step) -> None:
    assert_close(ours.output, theirs.output, msg=lambda m: f"outputs: {m}")
    assert ours.gradients.keys() == theirs.gradients.keys()
    for name, gradient in theirs.gradients.items():
        assert_close(ours.gradients[name], gradient, msg=lambda m, name=name: f"gradient of {name}: {m}")
    assert_same_tensors(ours.buffers, theirs.buffers)


def assert_same_tensors(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys(), f"{sorted(ours)} where {sorted(theirs)} is right"
    for name, tensor in theirs.items():
        assert_close(ours[name], tensor, msg=lambda m, name=name: f"{name}: {m}")


def batches(x: Tensor) -> list[Tensor]:
    """The input, and batches of two other sizes."""
    return [x, torch.cat([x, x.flip(0) * 2 + 1]), x[:2] - 3]


def assert_compiles(layer: nn.Module, x: Tensor) -> None:
    """Assert that there is one graph for every batch size, with the results of the layer."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    eager = copy.deepcopy(layer)
    compiled = torch.compile(layer, fullgraph=True, backend=counter)

    def call(x: Tensor) -> Tensor:
        torch._dynamo.mark_dynamic(x, 0)
        return compiled(x)

    for batch in batches(x):
        assert_same_step(step(layer, call, batch), step(eager, eager, batch))
    assert counter.frame_count == 1, f"compiled {counter.frame_count} times for {len(batches(x))} batch sizes"


@check()
def compiles_whole(subject: Subject) -> None:
    """torch.compile makes one graph of it, for every batch size, with the same outputs, gradients and statistics."""
    for layer, x in layers(subject):
        assert_compiles(layer, x)


@check(some_track)
def compiles_with_cumulative_average(subject: Subject) -> None:
    """With momentum=None, too, torch.compile makes one graph of it, where torch's own batch norms fail."""
    for case in tracking(subject):
        layer = case.build(subject.ours, torch.float64)
        layer.momentum = None
        assert_compiles(layer, case.input)


def exported(layer: nn.Module, x: Tensor) -> torch.export.ExportedProgram:
    return torch.export.export(layer, (x,), dynamic_shapes=({0: Dim("batch")},))


@check()
def exports_for_inference(subject: Subject) -> None:
    """torch.export of an eval layer gives the same outputs, for every batch size, and changes no buffer."""
    for case in typical(subject):
        layer = case.build(subject.ours, torch.float64, training=False)
        again = exported(layer, case.input).module()
        for batch in batches(case.input):
            assert_close(again(batch), layer(batch))
        assert_same_tensors(dict(again.named_buffers()), dict(layer.named_buffers()))


@check(some_track)
def exports_for_training(subject: Subject) -> None:
    """torch.export of a training layer keeps the changes to its running statistics, with momentum=None, too."""
    for case in tracking(subject):
        for momentum in (0.3, None):
            layer = case.build(subject.ours, torch.float64)
            layer.momentum = momentum
            program = exported(layer, case.input)
            changed = set(program.run_decompositions({}).graph_signature.buffers_to_mutate.values())
            names = dict(layer.named_buffers()).keys() if is_batch_norm(subject) else {"running_mean", "running_var"}
            assert changed == names, f"momentum={momentum}: the program changes {changed}, not {set(names)}"
            again = program.module()
            for batch in batches(case.input):
                assert_close(again(batch), layer(batch))
            assert_same_tensors(dict(again.named_buffers()), dict(layer.named_buffers()))


@check()
def exports_to_onnx(subject: Subject) -> None:
    """ONNX Runtime gives the same outputs as an eval layer that was exported to it, for every batch size."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    for case in typical(subject)[-1:]:
        layer, x = case.build(subject.ours, torch.float32, training=False), case.input.float()
        shapes = ({0: Dim("batch")},)
        program = torch.onnx.export(layer, (x,), dynamo=True, dynamic_shapes=shapes, verbose=False)
        file = io.BytesIO()
        program.save(file)
        session = onnxruntime.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])
        (name,) = (i.name for i in session.get_inputs())
        for batch in batches(x):
            (y,) = session.run(None, {name: batch.numpy()})
            assert_close(torch.from_numpy(y), layer(batch), rtol=1e-4, atol=1e-5)


@check()
def maps_over_inputs(subject: Subject) -> None:
    """In eval, torch.func.vmap over a stack of batches gives the same outputs as one call for each batch."""
    for case in typical(subject):
        layer = case.build(subject.ours, torch.float64, training=False)
        stack = torch.stack([case.input, case.input.flip(0) * 2 + 1])
        assert_close(vmap(layer)(stack), torch.stack([layer(x) for x in stack]))


@check(has_parameters)
def maps_over_layers(subject: Subject) -> None:
    """In eval, one vmap over stacked parameters and statistics gives the outputs of all layers of an ensemble."""
    for case in typical(subject):
        members = [case.build(subject.ours, torch.float64, training=False) for _ in range(3)]
        with torch.no_grad():
            for number, member in enumerate(members):
                for tensor in (*member.parameters(), *member.buffers()):
                    tensor.add_(number)
        base = copy.deepcopy(members[0]).to("meta")
        state = stack_module_state(members)
        together = vmap(lambda *state, base=base: functional_call(base, state[:2], state[2:]), (0, 0, None))
        assert_close(together(*state, case.input), torch.stack([member(case.input) for member in members]))


@check(has_parameters)
def differentiates_each_sample(subject: Subject) -> None:
    """In eval, vmap of grad gives the gradient of each sample."""
    for case in tracking(subject) if is_batch_norm(subject) else typical(subject):
        layer = case.build(subject.ours, torch.float64, training=False)
        parameters, buffers = dict(layer.named_parameters()), dict(layer.named_buffers())

        def loss(parameters: dict[str, Tensor], x: Tensor, layer: nn.Module = layer, buffers: Any = buffers) -> Tensor:
            return functional_call(layer, (parameters, buffers), (x.unsqueeze(0),)).pow(3).sum()

        ours = vmap(grad(loss), (None, 0))({k: p.detach() for k, p in parameters.items()}, case.input)
        for number, x in enumerate(case.input):
            theirs = torch.autograd.grad(loss(parameters, x), list(parameters.values()))
            assert_same_tensors({k: g[number] for k, g in ours.items()}, dict(zip(parameters, theirs, strict=True)))


@check()
def is_called_with_other_state(subject: Subject) -> None:
    """torch.func.functional_call reads the given state, not the layer's own; training changes only the given state."""
    for layer, x in layers(subject):
        other = copy.deepcopy(layer)
        with torch.no_grad():
            for tensor in (*other.parameters(), *other.buffers()):
                tensor.add_(1)
        given = {name: tensor.detach().clone() for name, tensor in other.state_dict().items()}
        before = copy.deepcopy(layer.state_dict())
        assert_close(functional_call(layer, given, (x,)), other(x))
        assert_same_tensors(given, other.state_dict())
        assert_same_tensors(layer.state_dict(), before)


@check()
def is_checkpointed(subject: Subject) -> None:
    """Activation checkpointing gives the same gradients and updates the statistics once (torch's layers: twice)."""
    for use_reentrant in (True, False):
        for layer, x in layers(subject):
            plain = copy.deepcopy(layer)

            def call(x: Tensor, layer: nn.Module = layer, use_reentrant: bool = use_reentrant) -> Tensor:
                # A block that ends in the norm is not computed again to its end.
                return checkpoint(nn.Sequential(layer, nn.Sigmoid()), x, use_reentrant=use_reentrant)

            for batch in batches(x):
                assert_same_step(step(layer, call, batch), step(plain, nn.Sequential(plain, nn.Sigmoid()), batch))


@check(some_track)
def is_checkpointed_when_compiled(subject: Subject) -> None:
    """Activation checkpointing inside torch.compile gives the same gradients and updates the statistics once."""
    for case in tracking(subject)[:1]:
        layer = case.build(subject.ours, torch.float64)
        plain = copy.deepcopy(layer)
        torch._dynamo.reset()

        @torch.compile(fullgraph=True, backend="aot_eager")
        def call(x: Tensor, layer: nn.Module = layer) -> Tensor:
            return checkpoint(lambda x: layer(x).sigmoid(), x, use_reentrant=False)

        assert_same_step(step(layer, call, case.input), step(plain, nn.Sequential(plain, nn.Sigmoid()), case.input))


@check()
def runs_hooks_of_copies(subject: Subject) -> None:
    """Forward and backward hooks get the right values, in a deep copy as in the original."""
    for case in typical(subject):
        original = case.build(subject.ours, torch.float64)
        seen: list[tuple[str, nn.Module, Any]] = []
        original.register_forward_pre_hook(lambda m, args, seen=seen: seen.append(("before", m, args[0])))
        original.register_forward_hook(lambda m, args, y, seen=seen: seen.append(("after", m, y)))
        original.register_full_backward_hook(lambda m, dx, dy, seen=seen: seen.append(("backward", m, dx[0])))
        original.register_full_backward_pre_hook(lambda m, dy, seen=seen: seen.append(("backward_pre", m, dy[0])))
        for layer in (original, copy.deepcopy(original)):
            seen.clear()
            left = step(layer, layer, case.input)
            assert [event for event, *_ in seen] == ["before", "after", "backward_pre", "backward"]
            assert all(module is layer for _, module, _ in seen)
            due = (case.input, left.output, None, left.gradients["input"])
            for (event, _, got), expected in zip(seen, due, strict=True):
                if expected is not None:
                    assert_close(got, expected, msg=lambda m, event=event: f"{event}: {m}")


@check()
def copies_share_nothing(subject: Subject) -> None:
    """A deep copy gives the same outputs and gradients, and training the copy does not change the original."""
    for layer, x in layers(subject):
        twin, before = copy.deepcopy(layer), copy.deepcopy(layer.state_dict())
        trained = step(twin, twin, x)
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter.add_(1)
        assert_same_tensors(layer.state_dict(), before)
        assert_same_step(step(layer, layer, x), trained)


@check(is_batch_norm)
def gives_up_statistics(subject: Subject) -> None:
    """After torch.func.replace_all_batch_norm_modules_, vmap can run the layer in training."""
    for case in typical(subject):
        model = nn.Sequential(case.build(subject.ours, torch.float64))
        replace_all_batch_norm_modules_(model)
        assert not list(model.buffers())
        stack = torch.stack([case.input, case.input.flip(0) * 2 + 1])
        one_by_one = torch.stack([model(x) for x in stack])
        assert_close(vmap(model)(stack), one_by_one)
        theirs = nn.Sequential(case.build(subject.reference(), torch.float64))
        assert_close(one_by_one, torch.stack([replace_all_batch_norm_modules_(theirs)(x) for x in stack]))


@check(is_batch_norm)
def is_renewed_by_update_bn(subject: Subject) -> None:
    """torch.optim.swa_utils.update_bn gives the same statistics as in torch's layer."""
    for case in tracking(subject):
        ours, theirs = (nn.Sequential(case.build(make, torch.float64)) for make in (subject.ours, subject.reference()))
        for model in (ours, theirs):
            update_bn(batches(case.input), model.eval())
        assert_same_tensors(dict(ours.named_buffers()), dict(theirs.named_buffers()))
        assert ours[0].momentum == theirs[0].momentum
        assert not ours.training
