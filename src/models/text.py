"""Text classification with any of transformers' sequence classifiers."""

from typing import Any

from torch import Tensor

from src.models.classifier import Classifier
from src.models.recipe import Recipe
from src.models.transformer import TransformerSizes, build_transformer, load_pretrained
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
        config: further options of the backbone's own transformers config, by its own names.
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

    modalities = ("texts",)

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
            sizes = TransformerSizes(hidden_size, num_layers, num_heads, dropout, vocab_size, max_length, pad_token_id)
            model = build_transformer(backbone, sizes, num_classes, config or {})
        super().__init__(model, num_classes, norm, recipe, compile)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return self.backbone(**inputs).logits
