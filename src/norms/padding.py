"""The padding mask's way from a text model's input to the norms that take statistics over positions."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


class ReadsPaddingMask(nn.Module):
    """A norm whose statistics reach over the positions of `(B, T, D)` and so must leave padding out."""

    padding_mask: Tensor | None = None  # (B, T), True at a token
    masked: bool = True
    """Whether padding is left out; where it is not, statistics depend on how far a batch is padded."""

    def mask_for(self, x: Tensor) -> Tensor | None:
        """The mask shaped to broadcast over `x`: `(B, T, 1)` for `(B, T, D)`.

        None where every row counts: there is no mask, or it is not wanted, or `x` is `(B, D)`, one pooled vector per
        sample.
        """
        mask = self.padding_mask
        if mask is None or not self.masked or x.ndim == 2:
            return None
        if mask.shape != x.shape[:2]:
            raise ValueError(
                f"a padding mask of shape {tuple(mask.shape)} does not fit an input of shape {tuple(x.shape)}: "
                "expected (B, T) and (B, T, ...). This layer needs a norm that looks at one position at a time, "
                "such as LayerNorm."
            )
        return mask.reshape(*mask.shape, *[1] * (x.ndim - 2))


def _hand_mask_to_norms(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    given = inspect.signature(model.forward).bind_partial(*args, **kwargs).arguments
    mask = given.get("attention_mask")
    if mask is not None and mask.ndim != 2:
        raise ValueError(
            f"attention_mask has shape {tuple(mask.shape)}; norms that take statistics over positions need (B, T), "
            "1 at a token and 0 at padding"
        )
    # Found anew at each call, so that a copy of the model serves its own norms; left in place after the call, so
    # that activation checkpointing, which runs layers again in the backward pass, finds it.
    for module in model.modules():
        if isinstance(module, ReadsPaddingMask):
            module.padding_mask = None if mask is None else mask.bool()


def share_padding_mask(model: nn.Module) -> None:
    """Make each call `model(..., attention_mask=...)` hand its mask to the norms inside; once is enough.

    Does nothing to a model without such an argument, or without such a norm.
    """
    takes_mask = "attention_mask" in inspect.signature(model.forward).parameters
    has_reader = any(isinstance(module, ReadsPaddingMask) for module in model.modules())
    if takes_mask and has_reader and _hand_mask_to_norms not in model._forward_pre_hooks.values():
        model.register_forward_pre_hook(_hand_mask_to_norms, with_kwargs=True)
