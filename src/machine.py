"""On what something ran."""

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
"""What decides a run's numbers, or reads its files."""


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
    found = [f"{name} {version(name)}" for name in ("torch", "lightning", "torchmetrics")]
    return ", ".join([f"Python {platform.python_version()}", *found])


@cache
def versions() -> Mapping[str, str]:
    """The versions of this project, Python and the packages that are installed, and CUDA's where torch has one."""
    found = {
        "lightning-norms": tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"][
            "version"
        ]
    }
    found["python"] = platform.python_version()
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # torch under another name, say, as some machines with GPUs have it
            continue
    return found | ({"cuda": torch.version.cuda} if torch.version.cuda else {})


def commit() -> tuple[str, bool] | tuple[None, None]:
    """This project's commit, and whether its files are as they were committed; None without git."""
    git = ["git", "-C", str(REPOSITORY)]
    try:
        head, changes = (
            subprocess.run([*git, *command], capture_output=True, text=True, check=True, timeout=10).stdout
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain"])
        )
    except (OSError, subprocess.SubprocessError):
        return None, None
    return head.strip(), not changes
