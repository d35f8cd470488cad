"""Text classification with any of transformers' sequence classifiers."""

from typing import Any

from torch import Tensor

from src.models.classifier import Classifier
from src.models.recipe import Recipe
from src.models.transformer import TransformerSizes, build_transformer, load_pretrained
from src.norms import NormFamily


class TextClassifier(Classifier):
    """Classifies `{"input_ids": (B, T), "attention_mask": (B, T)}` with a transformers model whose norms are a flag.

    Statistics over positions leave padding out, since the norms get the attention mask.

    Args:
        backbone: a transformers model type with a sequence classifier: bert, distilbert, roberta, modernbert, ...
        norm: the norm that replaces each norm of the backbone; null keeps the backbone's own.
        hidden_size: features of a token.
        num_layers: number of blocks.
        num_heads: attention heads; must divide hidden_size.
        dropout: probability of dropping a hidden unit or an attention weight.
        config: further options of the backbone's transformers config, by the names in that config.
        pretrained: a directory or a hub name with pretrained weights. The backbone, the sizes, dropout and config are
            then the pretrained model's, and the data needs the same name as its tokenizer.
        recipe: loss, optimizer and schedule.
        compile: run the backbone through torch.compile.
        num_classes: number of classes; the CLI takes it from the data.
        vocab_size: number of tokens in the vocabulary; the CLI takes it from the data.
        max_length: the most tokens in a text; the CLI takes it from the data.
        pad_token_id: the id of the padding token; the CLI takes it from the data.

    Raises:
        ValueError: the backbone or the pretrained model does not exist, or the sizes or the norm do not fit.
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
        super().__init__(model, num_classes, norm, recipe, compile, pretrained=pretrained is not None)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return self.backbone(**inputs).logits
