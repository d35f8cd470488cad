"""What watches a run."""

from src.callbacks.progress import ProgressBar
from src.callbacks.throughput import SamplesPerSecond

__all__ = ["ProgressBar", "SamplesPerSecond"]
