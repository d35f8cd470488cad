"""On what a benchmark ran, as a line for below its table."""

import shlex
import sys
from pathlib import Path

import torch

from src.machine import cpu_and_cores, software


def conditions() -> str:
    """A line of Markdown for below a table: hardware, versions, threads and the command."""
    module = Path(sys.argv[0]).stem
    command = shlex.join(["python", "-m", f"benchmarks.{module}", *sys.argv[1:]])
    return f"{cpu_and_cores()}, {torch.get_num_threads()} threads; {software()}; `{command}`."
