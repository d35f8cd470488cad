"""Running train.py: as a process of its own, or inside this one, where stand-in data can be put before it."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import train

REPOSITORY = Path(__file__).resolve().parents[2]
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
PLAIN = [*QUIET, "--norm_statistics.every_n_steps=0", "--evaluation_pictures.enabled=false"]
"""Without what a run draws, which takes longer than the few steps of a test."""


def run_process(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`python train.py ARGUMENTS` in a folder of its own, which sees the repository's configs/."""
    if not (folder / "configs").exists():
        (folder / "configs").symlink_to(REPOSITORY / "configs")
    command = [sys.executable, str(REPOSITORY / "train.py"), *arguments]
    environment = {**os.environ, "COLUMNS": "200"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def run_here(monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str) -> None:
    """`python train.py ARGUMENTS` in this process, with `folder` as the working folder."""
    if not (folder / "configs").exists():
        (folder / "configs").symlink_to(REPOSITORY / "configs")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    train.main()


def error_of(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path, arguments: str) -> str:
    """The last lines that `python train.py ARGUMENTS` ends with, having failed with exit code 2."""
    with pytest.raises(SystemExit) as stopped:
        run_here(monkeypatch, folder, *shlex.split(arguments))
    assert stopped.value.code == 2
    shown = capsys.readouterr().err
    return shown[shown.index("error: ") :].rstrip("\n")
