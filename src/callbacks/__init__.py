"""What watches a run."""

from src.callbacks.throughput import SamplesPerSecond

__all__ = ["SamplesPerSecond"]
