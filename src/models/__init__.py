"""Backbones from torchvision and transformers, and the LightningModules around them."""

from src.models.classifier import Classifier
from src.models.image import ImageClassifier
from src.models.recipe import Recipe
from src.models.text import TextClassifier

MODELS = {model.__name__: model for model in (ImageClassifier, TextClassifier)}

__all__ = ["MODELS", "Classifier", "ImageClassifier", "Recipe", "TextClassifier"]
