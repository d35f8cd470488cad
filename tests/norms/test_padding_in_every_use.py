"""A padding mask stays with its call: in threads, parts of models, checkpointing and compilers."""

import copy
import gc
import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from src.norms import NORMS, swap_norms
from src.norms.repeated_forward import _calls
from tests.helpers.errors import error_is
from tests.norms.test_padding import batch, small_bert

READING = ("BatchNorm", "InstanceNorm", "TorchBatchNorm", "TorchInstanceNorm")


def bert_with(name: str) -> nn.Module:
    model = small_bert()
    swap_norms(model, NORMS[name])
    return model


def other_batch() -> tuple[Tensor, Tensor]:
    ids, mask = batch()
    return pad(ids.flip(0), (0, 3)), pad(mask.flip(0), (0, 3))


@pytest.mark.parametrize("name", READING)
def test_threads_have_their_own_masks(name: str) -> None:
    model = bert_with(name).eval()
    batches = [batch(), other_batch()]
    with torch.no_grad():
        right = [model(input_ids=ids, attention_mask=mask).logits for ids, mask in batches]
    wrong: list[int] = []
    start = threading.Barrier(2)

    def serve(number: int) -> None:
        ids, mask = batches[number]
        start.wait()
        with torch.no_grad():
            for _ in range(40):
                if not torch.equal(model(input_ids=ids, attention_mask=mask).logits, right[number]):
                    wrong.append(number)

    threads = [threading.Thread(target=serve, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("name", READING)
def test_inner_models_get_the_mask(name: str) -> None:
    model = bert_with(name).eval()
    ids, mask = batch()
    for inner in (model.bert, model.base_model):
        features = inner(ids, mask).last_hidden_state
        further = inner(pad(ids, (0, 5)), attention_mask=pad(mask, (0, 5))).last_hidden_state[:, :9]
        assert_close(further[mask.bool()], features[mask.bool()])


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_a_mask_ends_with_its_call(failure: type[BaseException]) -> None:
    """No call leaves its mask for the next: neither one that ends, nor one that fails or is interrupted."""
    model = bert_with("InstanceNorm").eval()
    ids, mask = batch()
    layer, x = model.bert.embeddings.LayerNorm, torch.randn(4, 9, 64, dtype=torch.float64)
    whole = layer(x)
    model(input_ids=ids, attention_mask=mask)
    assert_close(layer(x), whole)
    right = model(input_ids=ids).logits

    def fail(*_: object) -> None:
        raise failure

    hook = model.bert.pooler.register_forward_hook(fail)
    with pytest.raises(failure):
        model(input_ids=ids, attention_mask=mask)
    hook.remove()
    assert_close(model(input_ids=ids).logits, right)
    assert_close(layer(x), whole)


Loss = Callable[[nn.Module], Tensor]


def one_call(model: nn.Module) -> Tensor:
    ids, mask = batch()
    return model(input_ids=ids, attention_mask=mask).logits.square().sum()


def two_calls(model: nn.Module) -> Tensor:
    ids, mask = other_batch()
    return one_call(model) + model(input_ids=ids, attention_mask=mask).logits.sum() + model(input_ids=ids).logits.sum()


def hidden_state(model: nn.Module) -> Tensor:
    ids, mask = batch()
    features = model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states[1]
    return (features.cos() * mask[..., None]).sum()


def backward(model: nn.Module, loss: Loss) -> dict[str, Tensor | None]:
    model.zero_grad()
    loss(model).backward()
    return {name: p.grad for name, p in model.named_parameters()}


def checkpointed(model: nn.Module, use_reentrant: bool) -> nn.Module:
    twin = copy.deepcopy(model)
    for layer in twin.bert.encoder.layer:
        layer.gradient_checkpointing = True
        layer._gradient_checkpointing_func = lambda f, *args: checkpoint(f, *args, use_reentrant=use_reentrant)
    return twin


@pytest.mark.parametrize("loss", [two_calls, hidden_state], ids=lambda loss: loss.__name__)
@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("name", ["BatchNorm", "InstanceNorm", "TorchInstanceNorm"])
def test_checkpointing_repeats_with_the_mask_of_its_forward_pass(name: str, use_reentrant: bool, loss: Loss) -> None:
    model = bert_with(name)
    assert_close(backward(checkpointed(model, use_reentrant), loss), backward(model, loss))


def test_the_backward_pass_in_another_thread() -> None:
    """On a GPU the engine's thread repeats the forward pass; here a thread of the test does."""
    model = bert_with("InstanceNorm")
    right = backward(model, two_calls)
    twin = checkpointed(model, use_reentrant=False)
    loss = two_calls(twin)
    thread = threading.Thread(target=loss.backward)
    thread.start()
    thread.join()
    assert_close({name: p.grad for name, p in twin.named_parameters()}, right)


def test_recorded_calls_end_with_their_graph() -> None:
    model = checkpointed(bert_with("InstanceNorm"), use_reentrant=False)
    gc.collect()
    before = len(_calls)
    loss = two_calls(model)
    assert len(_calls) == before + 3
    loss.backward()
    del loss
    gc.collect()
    assert len(_calls) == before
    with torch.no_grad():
        one_call(model)
    assert len(_calls) == before


class Blocks(nn.Module):
    """A model that checkpoints a function of several blocks, as torch's `checkpoint_sequential` does."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Tanh()) for _ in range(4)))
        self.segments = 0

    def forward(self, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        if not self.segments:
            return self.blocks(x)
        return checkpoint_sequential(self.blocks, self.segments, x, use_reentrant=False)


def test_a_checkpoint_of_several_blocks() -> None:
    model = Blocks()
    swap_norms(model, NORMS["InstanceNorm"])
    x, mask = torch.randn(2, 5, 8), torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    right = backward(model, lambda m: (m(x, attention_mask=mask) * mask[..., None]).pow(3).sum())
    model.segments = 2
    assert_close(backward(model, lambda m: (m(x, attention_mask=mask) * mask[..., None]).pow(3).sum()), right)


def test_a_repetition_whose_mask_is_unknown_is_refused() -> None:
    """A part that is called outside of its model has no call that its repetition could find."""
    model = bert_with("InstanceNorm")
    x = torch.randn(2, 5, 64, dtype=torch.float64, requires_grad=True)
    y = checkpoint(nn.Sequential(model.bert.embeddings.LayerNorm, nn.Sigmoid()), x, use_reentrant=False)
    with error_is(
        RuntimeError,
        "this forward pass repeats another one inside a backward pass (activation checkpointing), and the padding mask "
        "of that one is not known: checkpoint parts of a model that is called as a whole, and compile the whole model "
        "or nothing",
    ):
        y.sum().backward()


@pytest.mark.parametrize("repeats", [False, True], ids=["plain", "checkpointed"])
@pytest.mark.parametrize("name", ["BatchNorm", "InstanceNorm"])
def test_compiled(name: str, repeats: bool) -> None:
    model = bert_with(name)
    model.config.use_cache = False  # transformers warns about it, which the compiler cannot trace
    right = backward(model, two_calls)
    twin = checkpointed(model, use_reentrant=False) if repeats else copy.deepcopy(model)
    torch._dynamo.reset()
    twin.compile(backend="aot_eager")
    assert_close(backward(twin, two_calls), right)
    assert twin.state_dict().keys() == model.state_dict().keys()


@pytest.mark.parametrize("name", ["BatchNorm", "InstanceNorm"])
def test_exported(name: str) -> None:
    model = bert_with(name).eval()
    ids, mask = batch()
    length = torch.export.Dim("length", min=2, max=32)
    shapes = {"input_ids": {1: length}, "attention_mask": {1: length}}
    program = torch.export.export(model, (), {"input_ids": ids, "attention_mask": mask}, dynamic_shapes=shapes)
    more, more_mask = other_batch()
    assert_close(program.module()(input_ids=more, attention_mask=more_mask).logits, model(more, more_mask).logits)
