"""On what a benchmark ran."""

import os
import platform
import shlex
import sys
from importlib.metadata import version
from pathlib import Path

import torch


def processor() -> str:
    """The processor's name and the cores that this process may use."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name or platform.processor() or platform.machine()}, {cores} cores"


def conditions() -> str:
    """A line of Markdown for below a table: hardware, versions, threads and the command."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "lightning", "torchmetrics"))
    module = Path(sys.argv[0]).stem
    command = shlex.join(["python", "-m", f"benchmarks.{module}", *sys.argv[1:]])
    software = f"Python {platform.python_version()}, {versions}"
    return f"{processor()}, {torch.get_num_threads()} threads; {software}; `{command}`."
