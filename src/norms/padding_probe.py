"""Find out, by two small forward passes, whether padding counts in a text model's results."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from src.norms.family import NormFamily
from src.norms.padding import ReadsPaddingMask, share_padding_mask

# The number of texts, their length and usual numbers of heads differ, so that dimensions in another order do not fit.
# Two texts are of the full length, since a batch norm of a recurrence needs two values at each step.
LENGTHS = (7, 5, 7)
FURTHER = 4  # padded positions that the second pass has more
TOLERANCE = 1e-4  # relative change; rounding in float32 gives about 1e-6


def effect_of_padding(model: nn.Module) -> float:
    """The largest relative change of outputs and statistics when a batch is padded further; 0 is right.

    The norms that read a padding mask use the statistics of the batch, as in training. Buffers, training flags and the
    state of random numbers are as before afterwards.

    Raises:
        Exception: whatever the model raises. A model that takes other inputs than `input_ids` and `attention_mask`
            cannot be probed.
    """
    parameter = next(model.parameters())
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    training = {module: module.training for module in model.modules()}
    devices = [parameter.device] if parameter.is_cuda else []
    try:
        model.eval()
        for module in model.modules():
            if isinstance(module, ReadsPaddingMask):
                module.train()
        with torch.no_grad(), torch.random.fork_rng(devices):
            short, long = (_results(model, length, parameter.device, buffers) for length in (0, FURTHER))
    finally:
        for module, flag in training.items():
            module.training = flag
        _restore(model, buffers)
    return max(_change(short[name], long[name]) for name in short)


def _results(model: nn.Module, further: int, device: torch.device, buffers: dict[str, Tensor]) -> dict[str, Tensor]:
    _restore(model, buffers)
    torch.manual_seed(0)
    ids, mask = _batch(model, further)
    output = model(input_ids=ids.to(device), attention_mask=mask.to(device))
    value = next(v for v in _values(output) if v.is_floating_point())
    if value.ndim > 2 and value.shape[:2] == mask.shape:
        value = value[mask.bool().to(value.device)]  # features of each token
    if not value.isfinite().all():
        raise ValueError("the outputs are not finite")
    statistics = {
        name: torch.cat([buffer.flatten().double() for buffer in module.buffers()])
        for name, module in model.named_modules()
        if isinstance(module, ReadsPaddingMask) and list(module.buffers())
    }
    return {"output": value, **statistics}


def _batch(model: nn.Module, further: int) -> tuple[Tensor, Tensor]:
    """Token ids and their mask. The ids are from the upper half of the vocabulary: special tokens have low ids."""
    config = getattr(model, "config", None)
    num_tokens = getattr(config, "vocab_size", None) or 16
    pad, end = getattr(config, "pad_token_id", None) or 0, getattr(config, "eos_token_id", None)
    length = max(LENGTHS) + further
    ids = torch.full((len(LENGTHS), length), pad)
    mask = torch.zeros_like(ids)
    for row, count in enumerate(LENGTHS):
        tokens = torch.arange(count) * 7 + 3 * row
        ids[row, :count] = num_tokens // 2 + tokens % (num_tokens - num_tokens // 2)
        mask[row, :count] = 1
        if isinstance(end, int) and end < num_tokens:  # BART's classifier reads the features of this token
            ids[row, count - 1] = end
    return ids, mask


def _values(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    values = output.values() if isinstance(output, Mapping) else output
    return [value for value in values if isinstance(value, Tensor)]


def _restore(model: nn.Module, buffers: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name in buffers:
                buffer.copy_(buffers[name])


def _change(short: Tensor, long: Tensor) -> float:
    if short.shape != long.shape:
        return float("inf")
    short, long = short.double(), long.double()
    return float((short - long).abs().max() / short.abs().max().clamp(min=1e-6))


def leave_padding_out(model: nn.Module, norm: NormFamily, replaced: Mapping[str, nn.Module]) -> None:
    """Pass padding masks to the norms of `model`, and try a text model.

    Args:
        model: the model, with the layers of `norm` in place.
        norm: the family, for the message.
        replaced: the layers that were there before, by name; they are put back if the model is refused.

    Raises:
        ValueError: padding counts all the same. A model that takes more than tokens cannot be tried, and is accepted.
    """
    hooks = share_padding_mask(model)
    reason = _why_padding_counts(model) if _takes_tokens(model) else None
    if reason is None:
        return
    new = {name: model.get_submodule(name) for name in replaced}
    _put(model, replaced)
    try:
        effect_of_padding(model)
    except Exception:  # the model takes other inputs, too
        _put(model, new)
        return
    for hook in hooks:
        hook.remove()
    raise ValueError(
        f"{type(norm).__name__} does not fit {type(model).__name__}: {reason.rstrip('.')}. Take a norm of one "
        f"position, such as LayerNorm{', or masked=false to count padding' if hasattr(norm, 'masked') else ''}"
    )


def _takes_tokens(model: nn.Module) -> bool:
    """Whether the model takes token ids and has norms that have to leave padding out."""
    readers = [m for m in model.modules() if isinstance(m, ReadsPaddingMask) and m.masked]
    on_meta = any(p.is_meta for p in model.parameters())
    return bool(readers) and not on_meta and "input_ids" in inspect.signature(model.forward).parameters


def _why_padding_counts(model: nn.Module) -> str | None:
    try:
        effect = effect_of_padding(model)
    except Exception as error:  # whatever a model raises whose norms get something unexpected
        return str(error)
    tolerance = max([TOLERANCE, *(32 * torch.finfo(p.dtype).eps for p in model.parameters() if p.is_floating_point())])
    if effect <= tolerance:
        return None
    return f"padding counts in its statistics: padding a batch further changes results by {effect:.2g} of their size"


def _put(model: nn.Module, layers: Mapping[str, nn.Module]) -> None:
    for name, layer in layers.items():
        model.set_submodule(name, layer)
