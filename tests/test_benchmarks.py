"""The benchmarks run and measure correctly, and `make bench-check` fails if a norm is too slow."""

import runpy
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torchvision

from benchmarks import __main__ as driver
from benchmarks import limits, norms, processes, synchronization, timing
from tests.helpers.train_command import REPOSITORY


def spin(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_medians_tell_the_slower_side() -> None:
    found = timing.medians({"one": lambda: spin(0.002), "three": lambda: spin(0.006)}, rounds=3)
    assert 2 < found["three"] / found["one"] < 4


def test_cases_cover_each_norm_with_a_kernel() -> None:
    found = {case.name for case in norms.cases()}
    assert found == {f"BatchNorm{n}d" for n in (1, 2, 3)} | {"LayerNorm", "RMSNorm", "GroupNorm", "InstanceNorm2d"}


@pytest.mark.parametrize("case", [case for case in norms.cases() if torch.Size(case.shape).numel() < 40_000], ids=str)
def test_a_row(case: norms.Case) -> None:
    name, *_, kernels, formula = norms.times_row(case, rounds=1)
    assert name == case.name
    assert kernels > 0
    assert formula > 0


@pytest.mark.parametrize("name", ["growth", "memory"])
def test_a_row_of_another_table(name: str) -> None:
    table = norms.TABLES[name]
    cells = table.row(norms.Case("LayerNorm", (16,), (4, 16), "float32"), 1)
    assert len(cells) == len(table.header)
    assert all(isinstance(ratio, float) and ratio > 0 for ratio in cells[-2:])


def test_bytes() -> None:
    case = norms.Case("LayerNorm", (64,), (256, 64), "float32")
    ours, _ = case.layers()
    x = case.tensor().requires_grad_()
    assert norms.saved_bytes(ours, x) == x.nbytes + 2 * 256 * 4  # the input, and each row's mean and variance
    assert norms.peak_bytes(case.step(ours)) >= 2 * x.nbytes  # the output and the input's gradient


@pytest.mark.parametrize(("limit", "code"), [(1e9, 0), (0.0, 1)])
def test_the_check_fails_where_ours_is_too_slow(limit: float, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    case = norms.Case("LayerNorm", (16,), (4, 16), "float32")
    monkeypatch.setattr(limits, "LIMITS", {case: (limit, limit)})
    monkeypatch.setattr(limits, "keep_freed_memory", lambda: "")
    with pytest.raises(SystemExit) as caught:
        limits.main()
    assert caught.value.code == code


def test_a_part_is_written_anew_and_the_others_stay(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(driver, "DOCUMENT", tmp_path / "benchmarks.md")
    monkeypatch.setattr(driver, "PARTS", {"A": "benchmarks.a", "B": "benchmarks.b"})
    runs = iter(range(9))
    monkeypatch.setattr(driver, "run", lambda command: f"{command} {next(runs)}\n")
    for arguments in ([], ["--only", ".b"]):
        monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
        driver.main()
    found = driver.sections(driver.DOCUMENT.read_text())
    assert {title: text.strip() for title, text in found.items()} == {"A": "benchmarks.a 0", "B": "benchmarks.b 2"}


@pytest.mark.parametrize("command", driver.PARTS.values())
def test_each_part_is_a_command(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, *options = command.split()
    monkeypatch.setattr(sys, "argv", [module, *options, "--help"])
    monkeypatch.delitem(sys.modules, module, raising=False)  # an imported module would run twice
    with pytest.raises(SystemExit, match="0"):
        runpy.run_module(module, run_name="__main__")


def test_bytes_that_synchronization_sends() -> None:
    """Each of ResNet-18's 20 norms communicates twice, and the bytes are those of the formula."""
    norms, gradients = synchronization.sent_rows("resnet18", [4], latency=0, bandwidth=1e9)
    widths = [64] * 5 + [128] * 5 + [256] * 5 + [512] * 5
    expected = sum(3 * 4 * (2 * width + 1) + 2 * 3 / 4 * 4 * 2 * width for width in widths)
    assert norms == ["resnet18", 4, "norms", 2 * len(widths), f"{expected / 1e6:.1f}", f"{expected / 1e6:.1f}"]
    parameters = sum(p.nbytes for p in torchvision.models.resnet18().parameters())
    assert float(gradients[4]) == pytest.approx(2 * 3 / 4 * parameters / 1e6, abs=0.1)


def test_training() -> None:
    few = ["--cases", "small-digits", "--rounds", "1", "--steps", "8"]
    command = [sys.executable, "-m", "benchmarks.training", *few]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("|")]
    assert [len(row) for row in rows] == [8, 8, 8]
    assert rows[-1][0] == "small-digits"
    assert all(float(number) > 0 for number in rows[-1][1:])
    assert f"`python -m benchmarks.training {' '.join(few)}`" in done.stdout


def test_time_to_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    assert processes.start_seconds(processes.COMMANDS["fit on digits, to the first step"], str(tmp_path))() > 0
    with pytest.raises(RuntimeError, match="ended with 1:\nTraceback"):
        processes.start_seconds(["-c", "raise ValueError"], str(tmp_path))()
