"""transformers' sequence classifiers, from a few sizes or from pretrained weights.

The functions import transformers themselves: the import takes seconds, and image models do not need it.
"""

from dataclasses import dataclass
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import nn

from src.names import unknown_name

# The names that configs of transformers have for the width of the feed-forward layer.
FEED_FORWARD = ("intermediate_size", "hidden_dim", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim", "d_ff", "n_inner")


@dataclass(frozen=True)
class TransformerSizes:
    """The options that all model types of transformers have, under various names."""

    hidden_size: int
    num_layers: int
    num_heads: int
    dropout: float
    vocab_size: int
    max_length: int
    pad_token_id: int

    def options_of(self, config: Any) -> dict[str, Any]:
        """These sizes under the names in a model type's config."""
        options: dict[str, Any] = {
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_heads,
            "vocab_size": self.vocab_size,
            "pad_token_id": self.pad_token_id,
            "max_position_embeddings": self.max_length + self.pad_token_id + 1,  # RoBERTa counts from the padding's id
            **dict.fromkeys(FEED_FORWARD, 4 * self.hidden_size),
        }
        for name, value in config.to_dict().items():
            # "layerdrop" drops whole layers. None means that the value follows another option.
            if "drop" in name and "layerdrop" not in name and isinstance(value, float):
                options[name] = self.dropout
        return {name: value for name, value in options.items() if hasattr(config, name)}


def build_transformer(name: str, sizes: TransformerSizes, num_classes: int, config: dict[str, Any]) -> nn.Module:
    """A sequence classifier of a transformers model type, with fresh weights.

    Args:
        name: the model type: bert, distilbert, ...
        sizes: the sizes and dropout.
        num_classes: number of classes.
        config: further options, by the names in the model type's config.
    """
    from transformers import AutoConfig, AutoModelForSequenceClassification
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

    known = [str(model_type) for model_type in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES]
    if name not in known:
        raise ValueError(unknown_name("backbone", name, known))
    if sizes.hidden_size % sizes.num_heads:
        raise ValueError(f"hidden_size={sizes.hidden_size} cannot be split over num_heads={sizes.num_heads}")
    default = AutoConfig.for_model(name)
    for option in config:
        if not hasattr(default, option):
            raise ValueError(unknown_name(f"option of {name}'s config", option, default.to_dict()))
    options = {**sizes.options_of(default), "num_labels": num_classes, **config}
    return AutoModelForSequenceClassification.from_config(AutoConfig.for_model(name, **options))


def load_pretrained(name: str, num_classes: int) -> nn.Module:
    """A pretrained transformers model from a directory or the hub, with a new classifier."""
    from transformers import AutoModelForSequenceClassification

    try:
        model, loaded = AutoModelForSequenceClassification.from_pretrained(
            name, num_labels=num_classes, ignore_mismatched_sizes=True, output_loading_info=True
        )
    except (OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(
            f"pretrained='{name}' could not be loaded: expected a directory with config.json and weights, or a name on "
            f"the Hugging Face hub and a network ({reason})"
        ) from error
    afresh = {*loaded["missing_keys"], *(key for key, *_ in loaded["mismatched_keys"])}
    rank_zero_info(f"{name}: pretrained weights; starting afresh: {', '.join(sorted(afresh)) or 'nothing'}")
    return model
