"""Backbones, mostly of torchvision and transformers, and the LightningModules around them."""

from src.models.classifier import Classifier
from src.models.image import ImageClassifier
from src.models.lstm import LSTMClassifier
from src.models.mlp import MLPClassifier
from src.models.recipe import Recipe
from src.models.text import TextClassifier
from src.models.volume import VolumeClassifier

MODELS: dict[str, type[Classifier]] = {
    model.__name__: model
    for model in (ImageClassifier, TextClassifier, MLPClassifier, VolumeClassifier, LSTMClassifier)
}

__all__ = [
    "MODELS",
    "Classifier",
    "ImageClassifier",
    "LSTMClassifier",
    "MLPClassifier",
    "Recipe",
    "TextClassifier",
    "VolumeClassifier",
]
