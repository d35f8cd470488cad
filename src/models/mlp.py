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
    and dropout; an input of more dimensions is flattened. The hidden weights start as He et al. have it
    (arXiv 1502.01852) with relu and as Glorot and Bengio do (https://proceedings.mlr.press/v9/glorot10a) with sigmoid
    and tanh, from normal distributions, times `init_scale`; the biases start at 0.

    Args:
        norm: what takes the place of each hidden layer's norm; null is torch's BatchNorm1d.
        hidden_size: features of a hidden layer.
        num_layers: hidden layers.
        activation: relu, sigmoid or tanh.
        init_scale: factor on the first values of the hidden layers' weights.
        dropout: probability of dropping a hidden unit.
        recipe: loss, optimizer and schedule.
        num_classes: classes; the CLI takes it from the data.
        in_features: numbers in a sample; the CLI takes it from the data.

    Raises:
        ValueError: a size or a share that cannot be, or a norm that does not fit vectors.
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
        super().__init__(nn.Sequential(layers), num_classes, norm, recipe, compile=False)

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.backbone(inputs)
        return logits


@torch.no_grad()
def initialize(linear: nn.Module, activation: Activation, scale: float) -> None:
    """The first weights of a hidden layer, in place."""
    assert isinstance(linear, nn.Linear)
    if activation == "relu":
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
    else:
        nn.init.xavier_normal_(linear.weight)
    linear.weight.mul_(scale)
    nn.init.zeros_(linear.bias)
