"""Run compare.py, and look at its processes and files."""

import csv
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from src.compare.main import main
from tests.helpers.train_command import REPOSITORY, link_configs

TINY = [
    *["--config", "configs/digits.yaml", "--model.width", "4", "--trainer.log_every_n_steps=1"],
    *["--trainer.limit_train_batches=4", "--trainer.limit_val_batches=1", "--trainer.limit_test_batches=1"],
]
"""A run on digits of a few seconds, most of which are imports."""


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start `python compare.py ARGUMENTS` in `folder`."""
    link_configs(folder)
    command = [sys.executable, str(REPOSITORY / "compare.py"), *arguments]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def compare_here(monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str) -> int:
    """Run `python compare.py ARGUMENTS` in this process, and return the exit code."""
    link_configs(folder)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["compare.py", *arguments])
    monkeypatch.setattr("src.compare.main.stop_on_sigterm", lambda: None)
    with pytest.raises(SystemExit) as ended:
        main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


def error_of(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path, arguments: str) -> str:
    """The error message of `python compare.py ARGUMENTS`, which has to exit with code 2 before any run starts."""
    assert compare_here(monkeypatch, folder, *shlex.split(arguments)) == 2
    assert not list(folder.rglob("run.json"))
    return capsys.readouterr().err.rstrip("\n")


def rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with path.open() as file:
        return list(csv.DictReader(file))


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Check the condition ten times a second. Fails when the process ends first, or after five minutes."""
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, process.stdout and process.stdout.read()
        assert time.monotonic() < deadline, "the condition did not hold within five minutes"
        time.sleep(0.1)


def training_process(folder: Path) -> int | None:
    """The PID of the train.py process whose run folder is `folder`; None without one."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            arguments = path.read_bytes().decode().split("\0")
        except OSError:
            continue  # the process has ended
        here = {f"--trainer.default_root_dir={folder.parent}", f"--experiment={folder.name}"}
        if here <= set(arguments):
            return int(path.parent.name)
    return None


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
