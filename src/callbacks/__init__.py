"""What watches a run."""

from src.callbacks.batch_size import BatchSizeSummary
from src.callbacks.progress import ProgressBar
from src.callbacks.throughput import SamplesPerSecond

__all__ = ["BatchSizeSummary", "ProgressBar", "SamplesPerSecond"]
