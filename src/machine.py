"""On what something ran."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

import torch


def num_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """The processor's name and the cores that this process may use."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return f"{name or platform.processor() or platform.machine()}, {num_cores()} cores"


def hardware() -> str:
    """The processor and, where there are some, the GPUs."""
    gpus = torch.cuda.device_count()
    return f"{processor()}; {gpus} x {torch.cuda.get_device_name()}" if gpus else processor()


def software() -> str:
    """The versions of Python and of what trains."""
    versions = [f"{name} {version(name)}" for name in ("torch", "lightning", "torchmetrics")]
    return ", ".join([f"Python {platform.python_version()}", *versions])
