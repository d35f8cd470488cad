"""Run train.py in a new process, or in this process, where a test can replace the data by stand-ins."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import train

REPOSITORY = Path(__file__).resolve().parents[2]
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
PLAIN = [*QUIET, "--norm_statistics.every_n_steps=0", "--evaluation_pictures.enabled=false"]
"""Options that switch pictures off, which take longer than the few steps of a test."""


def link_configs(folder: Path) -> None:
    """Make the repository's configs/ visible in a folder."""
    if not (folder / "configs").exists():
        (folder / "configs").symlink_to(REPOSITORY / "configs")


def run_process(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `python train.py ARGUMENTS` in `folder`."""
    link_configs(folder)
    command = [sys.executable, str(REPOSITORY / "train.py"), *arguments]
    environment = {**os.environ, "COLUMNS": "200"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def run_here(monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str) -> None:
    """Run `python train.py ARGUMENTS` in this process, with `folder` as the working folder."""
    link_configs(folder)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    train.main()


def error_of(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path, arguments: str) -> str:
    """The error message of `python train.py ARGUMENTS`, which has to fail with exit code 2."""
    with pytest.raises(SystemExit) as stopped:
        run_here(monkeypatch, folder, *shlex.split(arguments))
    assert stopped.value.code == 2
    shown = capsys.readouterr().err
    return shown[shown.index("error: ") :].rstrip("\n")


def last_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The weights in the last checkpoint of the only run on digits below `folder`."""
    (path,) = folder.glob("runs/digits/*/checkpoints/last.ckpt")
    return torch.load(path, weights_only=True)["state_dict"]
