"""Hardware and versions, printed below a result."""

import os
import platform
import subprocess
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics", "jsonargparse", "transformers", "tokenizers", "numpy")
"""The packages that decide a run's numbers or read its files."""


def num_cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_and_cores() -> str:
    """The name of the CPU and the number of cores that this process may use."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return f"{name or platform.processor() or platform.machine()}, {num_cores()} cores"


def hardware() -> str:
    """The CPU and, if there are any, the GPUs."""
    gpus = torch.cuda.device_count()
    cpu = cpu_and_cores()
    return f"{cpu}; {gpus} x {torch.cuda.get_device_name()}" if gpus else cpu


def software() -> str:
    """The versions of Python and of the libraries that train."""
    found = [f"{name} {version(name)}" for name in ("torch", "lightning", "torchmetrics")]
    return ", ".join([f"Python {platform.python_version()}", *found])


@cache
def versions() -> Mapping[str, str]:
    """The versions of this project, of Python, of `PACKAGES` as far as installed, and of CUDA if torch has it."""
    found = {
        "lightning-norms": tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"][
            "version"
        ]
    }
    found["python"] = platform.python_version()
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # for example torch under another name, as on some machines with GPUs
            continue
    return found | ({"cuda": torch.version.cuda} if torch.version.cuda else {})


def commit() -> tuple[str, bool] | tuple[None, None]:
    """This project's commit, and whether its files are unchanged since; None and None without git."""
    git = ["git", "-C", str(REPOSITORY)]
    try:
        head, changes = (
            subprocess.run([*git, *command], capture_output=True, text=True, check=True, timeout=10).stdout
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain"])
        )
    except (OSError, subprocess.SubprocessError):
        return None, None
    return head.strip(), not changes
