"""Pass the padding mask from a text model's input to the norms whose statistics run over positions."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


class ReadsPaddingMask(nn.Module):
    """A norm whose statistics run over the positions of `(B, T, D)`, and so have to leave padding out."""

    padding_mask: Tensor | None = None  # (B, T), True at a token
    masked: bool = True
    """Whether statistics leave padding out. If not, they depend on how far a batch is padded."""

    def mask_for(self, x: Tensor) -> Tensor | None:
        """The mask in the shape that broadcasts over `x`: `(B, T, 1)` for `(B, T, D)`.

        None if every position counts: there is no mask, `masked` is False, or `x` is `(B, D)`, one vector per sample.

        Raises:
            ValueError: the mask does not fit `x`.
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
    # The norms are looked up at each call, so that a copy of the model sets the mask on its own norms. The mask stays
    # after the call, for activation checkpointing, which runs layers again in the backward pass.
    for module in model.modules():
        if isinstance(module, ReadsPaddingMask):
            module.padding_mask = None if mask is None else mask.bool()


def share_padding_mask(model: nn.Module) -> None:
    """Make each call `model(..., attention_mask=...)` pass its mask to the norms inside.

    A second call changes nothing. A model without such an argument or without such a norm is not changed.
    """
    takes_mask = "attention_mask" in inspect.signature(model.forward).parameters
    has_reader = any(isinstance(module, ReadsPaddingMask) for module in model.modules())
    if takes_mask and has_reader and _hand_mask_to_norms not in model._forward_pre_hooks.values():
        model.register_forward_pre_hook(_hand_mask_to_norms, with_kwargs=True)
