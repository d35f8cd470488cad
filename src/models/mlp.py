"""Classification of vectors with a multilayer perceptron."""

from collections import OrderedDict
from typing import Literal

import torch
from torch import Tensor, nn

from src.models.classifier import Classifier
from src.models.recipe import Recipe
from src.models.vectors import check_vector_norm
from src.norms import NormFamily

Activation = Literal["relu", "sigmoid", "tanh"]
ACTIVATIONS: dict[Activation, type[nn.Module]] = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh}


class MLPClassifier(Classifier):
    """Classifies rows of a table `(B, in_features)`, images or volumes with hidden layers whose norms are a flag.

    A hidden layer is a linear layer, a norm of its features before the activation (arXiv 1502.03167), the activation,
    and dropout. Inputs of more dimensions are flattened. The hidden weights are drawn from normal distributions and
    multiplied by `init_scale`: with relu those of He et al. (arXiv 1502.01852), with sigmoid and tanh those of Glorot
    and Bengio (https://proceedings.mlr.press/v9/glorot10a). The biases start at 0.

    Args:
        norm: the norm of each hidden layer; null is torch's BatchNorm1d.
        hidden_size: features of a hidden layer.
        num_layers: number of hidden layers.
        activation: relu, sigmoid or tanh.
        init_scale: factor on the initial weights of the hidden layers.
        dropout: probability of dropping a hidden unit.
        recipe: loss, optimizer and schedule.
        num_classes: number of classes; the CLI takes it from the data.
        in_features: numbers in a sample; the CLI takes it from the data.

    Raises:
        ValueError: a size or a probability is out of range, or the norm does not fit vectors.
    """

    modalities = ("tables", "images", "volumes")

    def __init__(
        self,
        norm: NormFamily | None = None,
        hidden_size: int = 128,
        num_layers: int = 2,
        activation: Activation = "relu",
        init_scale: float = 1.0,
        dropout: float = 0.0,
        recipe: Recipe = Recipe(),  # noqa: B008 (frozen)
        num_classes: int = 10,
        in_features: int = 64,
    ) -> None:
        expected = {
            "hidden_size": (hidden_size >= 1, "1 or more"),
            "num_layers": (num_layers >= 1, "1 or more"),
            "init_scale": (init_scale > 0, "a number above 0"),
            "dropout": (0 <= dropout < 1, "0 <= dropout < 1"),
        }
        given = {"hidden_size": hidden_size, "num_layers": num_layers, "init_scale": init_scale, "dropout": dropout}
        for name, (fits, wanted) in expected.items():
            if not fits:
                raise ValueError(f"{name}={given[name]}: expected {wanted}")
        check_vector_norm(norm, **{f"norm{i}": hidden_size for i in range(1, num_layers + 1)})
        layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
        for i in range(1, num_layers + 1):
            layers[f"linear{i}"] = nn.Linear(in_features if i == 1 else hidden_size, hidden_size)
            layers[f"norm{i}"] = nn.BatchNorm1d(hidden_size)
            layers[f"activation{i}"] = ACTIVATIONS[activation]()
            layers[f"dropout{i}"] = nn.Dropout(dropout)
            initialize(layers[f"linear{i}"], activation, init_scale)
        layers["classifier"] = nn.Linear(hidden_size, num_classes)
        super().__init__(nn.Sequential(layers), num_classes, norm, recipe)

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.backbone(inputs)
        return logits


@torch.no_grad()
def initialize(linear: nn.Module, activation: Activation, scale: float) -> None:
    """Initialize the weights and the bias of a hidden layer in place."""
    assert isinstance(linear, nn.Linear)
    if activation == "relu":
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
    else:
        nn.init.xavier_normal_(linear.weight)
    linear.weight.mul_(scale)
    nn.init.zeros_(linear.bias)
