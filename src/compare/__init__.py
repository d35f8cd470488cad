"""Comparisons: train.py over a grid of norms, seeds and other options, and the results of the runs."""

from src.compare.curves import read_scalars

__all__ = ["read_scalars"]
