"""Files, copies and construction: a layer's state passes to torch's layer and back."""

import copy
import inspect
import io
import pickle

import torch
from torch import Tensor, nn

from tests.norms.conform.numbers import assert_equal
from tests.norms.conform.registry import check, has_reference, is_drop_in, tracks
from tests.norms.conform.subjects import Subject


def through_a_file(state: dict[str, Tensor]) -> dict[str, Tensor]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Tensor] = torch.load(file, weights_only=True)
    return loaded


@check()
def state_dict_round_trip(subject: Subject) -> None:
    """A file of the state dict, read into a fresh layer, gives the same outputs."""
    for case in subject.cases:
        layer = case.build(subject.ours, torch.float64, training=False)
        fresh = subject.ours(*case.args, **case.kwargs, dtype=torch.float64).eval()
        if fresh.state_dict().keys() != layer.state_dict().keys():
            continue  # a case that takes parameters away after construction
        fresh.load_state_dict(through_a_file(layer.state_dict()), strict=True)
        assert_equal(fresh(case.input), layer(case.input), case.name)


@check(has_reference)
def state_dict_of_torch(subject: Subject) -> None:
    """State dicts pass both ways, strictly, with torch's keys, order, shapes, types and version."""
    for case in subject.cases:
        if case.state:
            continue
        ours, theirs = (case.build(make, torch.float32) for make in (subject.ours, subject.reference()))
        a, b = ours.state_dict(), theirs.state_dict()
        assert list(a) == list(b), f"{case.name}: {list(a)} where torch has {list(b)}"
        assert a._metadata == b._metadata, f"{case.name}: {a._metadata} where torch has {b._metadata}"  # type: ignore[attr-defined]
        for key in a:
            assert (a[key].shape, a[key].dtype) == (b[key].shape, b[key].dtype), f"{case.name}: {key}"
        for source, target in ((ours, theirs), (theirs, ours)):
            with torch.no_grad():
                for tensor in source.state_dict().values():
                    tensor.add_(1)
            assert str(target.load_state_dict(through_a_file(source.state_dict()), strict=True)) == (
                "<All keys matched successfully>"
            )
            assert_equal(ours.state_dict(), theirs.state_dict(), case.name, 0)


@check(lambda subject: has_reference(subject) and tracks(subject))
def state_dict_version_1(subject: Subject) -> None:
    """A file from before `num_batches_tracked` (version 1) loads as into torch's layer."""
    tracking = (c for c in subject.cases if "running_mean" in c.build(subject.reference(), torch.float32).state_dict())
    case = next(tracking)
    ours, theirs = (case.build(make, torch.float32) for make in (subject.ours, subject.reference()))
    old = {key: value + 1 for key, value in theirs.state_dict().items() if key != "num_batches_tracked"}
    found = []
    for layer in (ours, theirs):
        layer(case.input.float())
        layer.load_state_dict(dict(old), strict=True)
        found.append(layer.state_dict())
    assert_equal(*found, "version 1", 0)


@check()
def copies(subject: Subject) -> None:
    """`copy.deepcopy` and `pickle` give an independent layer with the same outputs, flags and settings."""
    for case in subject.cases:
        layer = case.build(subject.ours, torch.float64, training=False)
        layer.mark = "kept"
        for name, twin in ("deepcopy", copy.deepcopy(layer)), ("pickle", pickle.loads(pickle.dumps(layer))):
            assert type(twin) is type(layer)
            assert not twin.training, name
            assert twin.mark == "kept", name
            assert repr(twin) == repr(layer), name
            assert_equal(twin(case.input), layer(case.input), f"{case.name}, {name}", 0)
            shared = {p.data_ptr() for p in layer.state_dict().values()} & {
                p.data_ptr() for p in twin.state_dict().values() if p.numel()
            }
            assert not shared - {0}, f"{case.name}: {name} shares memory with its original"


@check(is_drop_in)
def same_signature(subject: Subject) -> None:
    """The constructor's and forward's parameters, repr and attributes are torch's; the class inherits from torch's."""
    assert subject.theirs is not None
    assert isinstance(subject.ours, type)
    assert isinstance(subject.theirs, type)
    assert issubclass(subject.ours, subject.theirs)
    for method in ("__init__", "forward"):
        found, expected = (inspect.signature(getattr(cls, method)) for cls in (subject.ours, subject.theirs))
        assert list(found.parameters) == list(expected.parameters), f"{method}{found} where torch has {expected}"
        for name, parameter in expected.parameters.items():
            assert found.parameters[name].default == parameter.default, f"{method}: {name}"
    for case in subject.cases:
        ours, theirs = (case.build(make, torch.float32) for make in (subject.ours, subject.theirs))
        assert repr(ours) == repr(theirs)
        assert ours.__dict__.keys() == theirs.__dict__.keys(), case.name
        assert getattr(ours, "__constants__", None) == getattr(theirs, "__constants__", None)


@check(has_reference)
def initial_state(subject: Subject) -> None:
    """A fresh layer has torch's initial values, and draws the same random numbers (none)."""
    for case in subject.cases:
        torch.manual_seed(0)
        ours = subject.ours(*case.args, **case.kwargs)
        after = torch.get_rng_state()
        torch.manual_seed(0)
        theirs = subject.reference()(*case.args, **case.kwargs)
        assert_equal(ours.state_dict(), theirs.state_dict(), case.name, 0)
        assert torch.equal(after, torch.get_rng_state()), case.name


@check()
def reset(subject: Subject) -> None:
    """`to_empty` and `reset_parameters` after the meta device give a fresh layer's state."""
    for case in subject.cases:
        fresh = subject.ours(*case.args, **case.kwargs)
        with torch.device("meta"):
            layer = subject.ours(*case.args, **case.kwargs)
        assert all(tensor.is_meta for tensor in layer.state_dict().values()), case.name
        if fresh.state_dict():
            layer.to_empty(device="cpu")
            with torch.no_grad():
                for tensor in layer.state_dict().values():
                    tensor.fill_(7)
            layer.reset_parameters()  # type: ignore[operator]
        assert_equal(layer.state_dict(), fresh.state_dict(), case.name, 0)


@check()
def meta_device(subject: Subject) -> None:
    """On the meta device the output has its shape and type, with nothing computed."""
    for case in subject.cases:
        if case.state or not case.input.numel():
            continue
        layer = subject.ours(*case.args, **case.kwargs).to("meta")
        y = layer(case.input.float().to("meta"))
        assert (y.shape, y.dtype, y.is_meta) == (case.input.shape, torch.float32, True), case.name


@check(is_drop_in)
def factory_keywords(subject: Subject) -> None:
    """`device` and `dtype` reach every parameter and buffer, as torch's do."""
    assert subject.theirs is not None
    for case in subject.cases:
        for factory in ({"dtype": torch.float16}, {"device": "meta", "dtype": torch.float64}):
            ours, theirs = (make(*case.args, **case.kwargs, **factory) for make in (subject.ours, subject.theirs))
            found, expected = (
                {key: (value.dtype, value.device) for key, value in layer.state_dict().items()}
                for layer in (ours, theirs)
            )
            assert found == expected, case.name


@check()
def modes_and_types(subject: Subject) -> None:
    """`.half()`, `.double()`, `.train()` and `.eval()` act on the layer as on any module."""
    for case in subject.cases:
        layer = subject.ours(*case.args, **case.kwargs)
        for move, dtype in ((nn.Module.half, torch.float16), (nn.Module.double, torch.float64)):
            move(layer)
            floating = [t for t in layer.state_dict().values() if t.is_floating_point()]
            assert all(tensor.dtype == dtype for tensor in floating), case.name
        assert layer.eval().training is False
        assert layer.train().training is True
