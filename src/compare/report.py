"""The tables of a comparison: Markdown to read, CSV for further analysis."""

import csv
from collections.abc import Sequence
from pathlib import Path

from src.compare.comparison import Baseline, Row
from src.compare.estimates import Estimate, estimate
from src.compare.figure_spec import ACCURACY

MIB = 2**20
NO_VALUE = "–"  # noqa: RUF001 (the sign in a table)


def plus_minus(found: Estimate | None, digits: int, scale: float = 1.0, out_of: int | None = None) -> str:
    """`0.9877 ± 0.0021`, with the number of values if there are fewer than `out_of`."""
    if found is None:
        return NO_VALUE
    text = f"{found.mean * scale:.{digits}f}"
    if found.std is not None:
        text += f" ± {found.std * scale:.{digits}f}"
    return text if out_of in (None, found.num_values) else f"{text} ({found.num_values} of {out_of})"


def significant(found: Estimate | None) -> str:
    """`0.00123 ± 0.00004`, with three significant digits."""
    if found is None:
        return NO_VALUE
    return f"{found.mean:.3g}" + (f" ± {found.std:.2g}" if found.std is not None else "")


def difference_text(found: Estimate | None, out_of: int) -> str:
    """`-0.0123 [-0.0200, -0.0046]`, with the number of pairs if there are fewer than `out_of`.

    A single pair has no interval: `-0.0123 (one seed)`.
    """
    if found is None:
        return NO_VALUE
    if found.interval is None:
        return f"{found.mean:+.4f} (one seed)"
    low, high = found.interval
    pairs = "" if found.num_values == out_of else f" ({found.num_values} of {out_of} pairs)"
    return f"{found.mean:+.4f} [{low:+.4f}, {high:+.4f}]{pairs}"


def counts(row: Row) -> str:
    """How the runs of an arm ended: `3 finished`, `1 finished, 2 diverged`."""
    found = {status: row.count(status) for status in ("finished", "diverged", "failed")}
    return ", ".join(f"{count} {status}" for status, count in found.items() if count)


def table(
    rows: Sequence[Row], baseline: Baseline | None, target: float | None, further: Sequence[str] = ()
) -> tuple[list[str], list[list[str]]]:
    """The header and the lines of the table; `further` has the names of a study's further measures."""
    header = [*(rows[0].arm.labels or ["arm"]), ACCURACY]
    if baseline:
        header.append(f"difference from {baseline.name} [95% interval]")
    if target is not None:
        header += [f"epochs to {target:g}", f"seconds to {target:g}"]
    on_gpu = any(row.mean("peak_gpu_memory_mib") for row in rows)
    header += [*further, "ms per step", "peak memory, MiB", *["peak GPU memory, MiB"] * on_gpu, "runs"]
    lines = []
    for row in rows:
        line = [*(row.arm.labels.values() or [row.arm.name]), plus_minus(row.mean("test_accuracy"), 4)]
        if baseline:
            line.append(difference_text(row.difference, len(row.runs)) if row.baseline else "baseline")
        if target is not None:
            runs = len(row.runs)
            line.append(plus_minus(row.mean("epochs_to_target"), 1, out_of=runs))
            line.append(plus_minus(row.mean("seconds_to_target"), 1, out_of=runs))
        line += [significant(estimate(list(row.values(name).values()))) for name in further]
        line += [plus_minus(row.mean("ms_per_step"), 1), plus_minus(row.peak_memory, 0, 1 / MIB)]
        line += [*[plus_minus(row.mean("peak_gpu_memory_mib"), 0)] * on_gpu, counts(row)]
        lines.append(line)
    return header, lines


def write_csv(path: Path, rows: Sequence[Row], target: float | None, further: Sequence[str] = ()) -> None:
    """Write one line for each arm, with plain numbers."""
    measures = ["test_accuracy", "ms_per_step", "peak_gpu_memory_mib"]
    measures += [] if target is None else ["epochs_to_target", "seconds_to_target"]
    lines = []
    for row in rows:
        line: dict[str, object] = dict(row.arm.labels)
        for name in measures:
            line |= _columns(name, row.mean(name))
        for name in further:
            line |= _columns(name, estimate(list(row.values(name).values())))
        line |= _columns("peak_memory_bytes", row.peak_memory)
        found = row.difference
        low, high = (found and found.interval) or (None, None)
        line |= {"difference": found and found.mean, "difference_low": low, "difference_high": high}
        line["difference_pairs"] = found and found.num_values
        line |= {status: row.count(status) for status in ("finished", "diverged", "failed")}
        lines.append(line)
    _write(path, lines)


def write_runs_csv(path: Path, rows: Sequence[Row]) -> None:
    """Write one line for each run."""
    lines: list[dict[str, object]] = []
    for row in rows:
        for run in row.runs:
            found, state = run.measures, run.state
            lines.append(
                {
                    **row.arm.labels,
                    "seed": run.job.seed,
                    "status": state.status,
                    "test_accuracy": found.test_accuracy,
                    "epochs_to_target": found.epochs_to_target,
                    "seconds_to_target": found.seconds_to_target,
                    "ms_per_step": found.ms_per_step,
                    "peak_gpu_memory_mib": found.peak_gpu_memory_mib,
                    **found.further,
                    "peak_memory_bytes": state.peak_memory,
                    "error": state.error,
                }
            )
    _write(path, lines)


def _columns(name: str, found: Estimate | None) -> dict[str, object]:
    return {
        f"{name}_mean": found and found.mean,
        f"{name}_std": found and found.std,
        f"{name}_runs": found.num_values if found else 0,
    }


def _write(path: Path, lines: Sequence[dict[str, object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for line in lines for name in line)))
        writer.writeheader()
        writer.writerows(lines)


def explanation(baseline: Baseline | None, num_seeds: int) -> str:
    """Sentences that explain the numbers in the table."""
    lines = [f"Means ± standard deviations over {num_seeds} seed{'s' * (num_seeds > 1)}, of the finished runs."]
    if baseline:
        lines.append(
            f"Differences in test accuracy from {baseline.name} are paired by seed, all else equal. The interval is "
            "Student's t (95%, each for itself). An interval that contains 0 does not settle whether there is a "
            "difference."
        )
    lines.append(
        "ms per step: the median of a run's logged steps. Peak memory: of the process on the host, without the GPU's. "
        "Diverged: a loss was not finite."
    )
    return " ".join(lines)
