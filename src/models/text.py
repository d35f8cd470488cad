"""Text classification with any of transformers' sequence classifiers."""

from typing import Any

from torch import Tensor, nn

from src.models.classifier import Classifier
from src.models.names import unknown_name
from src.models.recipe import Recipe
from src.norms import NormFamily


class TextClassifier(Classifier):
    """Classifies `{"input_ids": (B, T), "attention_mask": (B, T)}` with a transformers model whose norms are a flag.

    Statistics that run over positions leave padding out: the attention mask reaches the norms.

    Args:
        backbone: a transformers model type with a sequence classifier: bert, distilbert, roberta, modernbert, ...
        norm: what takes the place of each norm in the backbone; null leaves the backbone's own.
        hidden_size: features of a token.
        num_layers: blocks.
        num_heads: attention heads; must divide hidden_size.
        dropout: probability of dropping a hidden unit or an attention weight.
        config: further options of the backbone's own transformers config.
        pretrained: a directory or a hub name with pretrained weights; backbone, sizes, dropout and config are then
            its own, and the data needs the same name as its tokenizer.
        recipe: loss, optimizer and schedule.
        compile: run the backbone through torch.compile.
        num_classes: classes; the CLI takes it from the data.
        vocab_size: tokens known; the CLI takes it from the data.
        max_length: most tokens in a text; the CLI takes it from the data.
        pad_token_id: the padding token; the CLI takes it from the data.

    Raises:
        ValueError: no such backbone or pretrained model, sizes that do not fit, or a norm that does not.
    """

    def __init__(
        self,
        backbone: str = "bert",
        norm: NormFamily | None = None,
        hidden_size: int = 128,
        num_layers: int = 2,
        num_heads: int = 4,
        dropout: float = 0.1,
        config: dict[str, Any] | None = None,
        pretrained: str | None = None,
        recipe: Recipe = Recipe(optimizer="adamw", lr=1e-3, weight_decay=0.01),  # noqa: B008 (frozen)
        compile: bool = False,
        num_classes: int = 2,
        vocab_size: int = 8192,
        max_length: int = 128,
        pad_token_id: int = 0,
    ) -> None:
        if pretrained is not None:
            model = load_pretrained(pretrained, num_classes)
        else:
            if hidden_size % num_heads:
                raise ValueError(f"hidden_size={hidden_size} cannot be split over num_heads={num_heads}")
            sizes = {
                "hidden_size": hidden_size,
                "num_hidden_layers": num_layers,
                "num_attention_heads": num_heads,
                "intermediate_size": 4 * hidden_size,
                "hidden_dropout_prob": dropout,
                "attention_probs_dropout_prob": dropout,
                "vocab_size": vocab_size,
                "max_position_embeddings": max_length + pad_token_id + 1,  # RoBERTa counts positions from the padding
                "pad_token_id": pad_token_id,
                "num_labels": num_classes,
            }
            model = build_transformer(backbone, {**sizes, **(config or {})})
        super().__init__(model, num_classes, norm, recipe, compile)
        self.save_plain_hyperparameters(
            backbone=backbone,
            norm=norm,
            hidden_size=hidden_size,
            num_layers=num_layers,
            num_heads=num_heads,
            dropout=dropout,
            config=config,
            pretrained=pretrained,
            recipe=recipe,
            compile=compile,
            num_classes=num_classes,
            vocab_size=vocab_size,
            max_length=max_length,
            pad_token_id=pad_token_id,
        )

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return self.backbone(**inputs).logits


# transformers is imported where it is used: it takes seconds, and images do not need it.


def build_transformer(name: str, options: dict[str, Any]) -> nn.Module:
    """A transformers sequence classifier of this model type, with fresh weights."""
    from transformers import AutoConfig, AutoModelForSequenceClassification
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

    known = [str(model_type) for model_type in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES]
    if name not in known:
        raise ValueError(unknown_name("backbone", name, known))
    return AutoModelForSequenceClassification.from_config(AutoConfig.for_model(name, **options))


def load_pretrained(name: str, num_classes: int) -> nn.Module:
    """A pretrained transformers model from a directory or the hub, with a fresh classifier."""
    from transformers import AutoModelForSequenceClassification

    try:
        return AutoModelForSequenceClassification.from_pretrained(
            name, num_labels=num_classes, ignore_mismatched_sizes=True
        )
    except (OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(
            f"pretrained='{name}' could not be loaded: expected a directory with config.json and weights, or a name on "
            f"the Hugging Face hub and a network ({reason})"
        ) from error
