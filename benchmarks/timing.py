"""Fair timing: what is compared runs in turn in one process, and medians are compared."""

import argparse
import ctypes
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch

from benchmarks.machine import conditions

SAMPLE_SECONDS = 0.005  # a function that is faster is repeated until it takes so long
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> str:
    """Make glibc's malloc keep what is freed, and say which malloc serves.

    By default a large tensor's memory goes back to the system at once, and the next one's pages are zeroed again,
    which can take longer than the arithmetic.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
        kept = libc.mallopt(M_MMAP_THRESHOLD, 1 << 30) and libc.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
    except (OSError, AttributeError):
        kept = 0
    return "glibc's malloc, freed memory kept" if kept else "the system's malloc"


def medians(functions: Mapping[str, Callable[[], object]], rounds: int = 15) -> dict[str, float]:
    """Seconds that each function takes: the median over rounds in which all take their turn.

    With one thread they are seconds of the processor, which other programs disturb less than those of the clock.
    """
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter

    def sample(function: Callable[[], object], repetitions: int) -> float:
        start = clock()
        for _ in range(repetitions):
            function()
        return (clock() - start) / repetitions

    repetitions = {}
    for name, function in functions.items():
        function()
        repetitions[name] = max(1, round(SAMPLE_SECONDS / max(sample(function, 3), 1e-6)))
    samples: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            samples[name].append(sample(function, repetitions[name]))
    return {name: statistics.median(values) for name, values in samples.items()}


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown; floats with two digits."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(
        f"| {' | '.join(f'{v:.2f}' if isinstance(v, float) else str(v) for v in line)} |" for line in lines
    )


def print_report(description: str | None, report: Callable[[], str]) -> None:
    """What a benchmark does as a command: `--threads N`, its report, and on what it ran."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    torch.set_num_threads(parser.parse_args().threads)
    malloc = keep_freed_memory()
    print(f"{report()}\n\nWith {malloc}. {conditions()}")
