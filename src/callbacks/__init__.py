"""Callbacks that observe a run: statistics, pictures, warnings, speed and memory."""

from src.callbacks.batch_size import BatchSizeSummary
from src.callbacks.evaluation_pictures import EvaluationPictures
from src.callbacks.finite_loss import FiniteLoss
from src.callbacks.gpu_memory import GPUMemory
from src.callbacks.norm_statistics import NormStatistics
from src.callbacks.progress import ProgressBar
from src.callbacks.throughput import SamplesPerSecond

__all__ = [
    "BatchSizeSummary",
    "EvaluationPictures",
    "FiniteLoss",
    "GPUMemory",
    "NormStatistics",
    "ProgressBar",
    "SamplesPerSecond",
]
