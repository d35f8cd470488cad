"""Fair timing: the compared functions take turns, medians are compared, and the result names the machine."""

import argparse
import ctypes
import os
import resource
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch

from src.machine import cpu_and_cores, software

T = TypeVar("T")

SAMPLE_SECONDS = 0.005  # a faster function is repeated until one sample takes this long
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> str:
    """Make glibc's malloc keep freed memory, and return a description of the malloc in use.

    By default a large tensor's memory goes back to the system at once, and the pages of the next tensor are zeroed
    again, which can take longer than the arithmetic.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
        kept = libc.mallopt(M_MMAP_THRESHOLD, 1 << 30) and libc.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
    except (OSError, AttributeError):
        kept = 0
    return "glibc's malloc, freed memory kept" if kept else "the system's malloc"


def in_turn(measures: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """Call all functions once in each round, and return the results of each function by round."""
    found: dict[str, list[T]] = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            found[name].append(measure())
    return found


def medians(functions: Mapping[str, Callable[[], object]], rounds: int = 15) -> dict[str, float]:
    """The median seconds that each function takes.

    With one thread the time is CPU time, which other programs disturb less than wall time.
    """
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter

    def sample(function: Callable[[], object], repetitions: int) -> float:
        start = clock()
        for _ in range(repetitions):
            function()
        return (clock() - start) / repetitions

    def sampler(function: Callable[[], object]) -> Callable[[], float]:
        function()
        repetitions = max(1, round(SAMPLE_SECONDS / max(sample(function, 3), 1e-6)))
        return lambda: sample(function, repetitions)

    samples = in_turn({name: sampler(function) for name, function in functions.items()}, rounds)
    return {name: statistics.median(values) for name, values in samples.items()}


class Ended(NamedTuple):
    """A Python process that has ended."""

    seconds: float
    cpu_seconds: float  # its children's included
    code: int
    output: str
    errors: str


def run_python(arguments: list[str], folder: str | Path = ".") -> Ended:
    """Run `python ARGUMENTS` in a folder. The process can import this project."""
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Ended(seconds, cpu_seconds, done.returncode, done.stdout, done.stderr)


def options_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser whose help is a module's docstring."""
    return argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def conditions() -> str:
    """A line of Markdown to print below a table: hardware, threads, versions and the command."""
    module = Path(sys.argv[0]).stem
    command = shlex.join(["python", "-m", f"benchmarks.{module}", *sys.argv[1:]])
    return f"{cpu_and_cores()}, {torch.get_num_threads()} threads; {software()}; `{command}`."
