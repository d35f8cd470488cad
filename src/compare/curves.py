"""The curves of a run in TensorBoard, and the measures that are computed from them."""

import fnmatch
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

Curves = dict[str, list[tuple[int, float, float]]]
"""By tag, the points `(step, seconds, value)`."""

LOSSES = ("train/loss", "train/loss_epoch", "val/loss", "test/loss")


def read_scalars(folder: Path) -> Curves:
    """All scalars of one run: for each tag, such as `val/accuracy`, a list of `(step, seconds, value)`.

    Seconds count from the first event. A run that was stopped and resumed has several files: the steps that it repeated
    count once, and the time between stop and resumption does not count.

    Args:
        folder: the folder of the run's event files, `.../version_0`.
    """
    curves: Curves = {}
    for path in sorted(folder.glob("events.out.tfevents.*")):  # their names hold the second of their creation
        events = EventAccumulator(str(path), size_guidance={SCALARS: 0}).Reload()
        found = {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}
        # The scores of the HPARAMS page are in files of their own and have no step.
        start = min((points[0].step for tag, points in found.items() if not tag.startswith("hp")), default=math.inf)
        for tag, points in curves.items():
            curves[tag] = [point for point in points if point[0] < start]
        before = max((points[-1][1] for points in curves.values() if points), default=0.0)
        for tag, points in found.items():
            seconds = [before + point.wall_time - events.FirstEventTimestamp() for point in points]
            curves.setdefault(tag, []).extend((p.step, s, p.value) for p, s in zip(points, seconds, strict=True))
    return {tag: points for tag, points in curves.items() if points}


def diverged(curves: Mapping[str, list[tuple[int, float, float]]]) -> bool:
    """Whether any loss was not finite."""
    return any(not math.isfinite(value) for tag in LOSSES for _, _, value in curves.get(tag, []))


@dataclass(frozen=True)
class Measures:
    """The measures of one run; None if the run does not have the measure."""

    test_accuracy: float | None = None
    epochs_to_target: float | None = None
    seconds_to_target: float | None = None
    ms_per_step: float | None = None
    val_accuracy: dict[int, float] = field(default_factory=dict)
    """By epoch, counted from 1; empty if there was no validation."""

    peak_gpu_memory_mib: float | None = None

    further: dict[str, float] = field(default_factory=dict)
    """The further measures that a study asks for, by name."""


def read_further(curves: Curves, asked: Mapping[str, str]) -> dict[str, float]:
    """Further measures, each computed from scalars; a measure without a finite value is left out.

    Args:
        curves: the run's curves.
        asked: by the measure's name, a pattern of tags: `norms/eval_gap/*` is the mean over the points of a tag, and
            over all tags that match; `train/accuracy[-1]` is the last point in place of the mean.
    """
    found = {}
    for name, wanted in asked.items():
        pattern = wanted.removesuffix("[-1]")
        means = []
        for tag in fnmatch.filter(curves, pattern):
            values = [value for _, _, value in curves[tag] if math.isfinite(value)]
            if values:
                means.append(values[-1] if pattern != wanted else statistics.fmean(values))
        if means:
            found[name] = statistics.fmean(means)
    return found


def measure(curves: Curves, target: float | None = None, further: Mapping[str, str] | None = None) -> Measures:
    """The measures of a run with these curves; the time of a step is the median over the logged steps.

    `target` is a validation accuracy, to measure when the run reached it; for `further` see `read_further`.
    """
    # While a run writes, a scalar of the last step may be there before the epoch of that step.
    epochs = {step: int(value) + 1 for step, _, value in curves.get("epoch", [])}
    val = [(epochs[step], seconds, value) for step, seconds, value in curves.get("val/accuracy", []) if step in epochs]
    reached = next((point for point in val if target is not None and point[2] >= target), None)
    step_seconds = [value for _, _, value in curves.get("train/seconds_per_step", [])]
    gpu_memory = [value for _, _, value in curves.get("train/peak_gpu_memory_mib", [])]
    return Measures(
        test_accuracy=next((value for _, _, value in curves.get("test/accuracy", [])), None),
        epochs_to_target=reached and reached[0],
        seconds_to_target=reached and reached[1],
        ms_per_step=1000 * statistics.median(step_seconds) if step_seconds else None,
        peak_gpu_memory_mib=max(gpu_memory, default=None),
        val_accuracy={epoch: value for epoch, _, value in val},
        further=read_further(curves, further or {}),
    )
