"""Running compare.py, and what its runs leave."""

import csv
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from src.compare.main import main
from tests.helpers.train_command import REPOSITORY

TINY = [
    *["--config", "configs/digits.yaml", "--model.width", "4", "--trainer.log_every_n_steps=1"],
    *["--trainer.limit_train_batches=4", "--trainer.limit_val_batches=1", "--trainer.limit_test_batches=1"],
]
"""A digits run of some seconds, most of them imports."""


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """`python compare.py ARGUMENTS` in a folder of its own, which sees the repository's configs/."""
    link_configs(folder)
    command = [sys.executable, str(REPOSITORY / "compare.py"), *arguments]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def link_configs(folder: Path) -> None:
    if not (folder / "configs").exists():
        (folder / "configs").symlink_to(REPOSITORY / "configs")


def compare_here(monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str) -> int:
    """The same in this process; its exit code."""
    link_configs(folder)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["compare.py", *arguments])
    monkeypatch.setattr("src.compare.main.stop_on_sigterm", lambda: None)
    with pytest.raises(SystemExit) as ended:
        main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


def error_of(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path, arguments: str) -> str:
    """What `python compare.py ARGUMENTS` says, having ended with exit code 2 and run nothing."""
    assert compare_here(monkeypatch, folder, *shlex.split(arguments)) == 2
    assert not list(folder.rglob("run.json"))
    return capsys.readouterr().err.rstrip("\n")


def rows(path: Path) -> list[dict[str, str]]:
    """A CSV file's lines."""
    with path.open() as file:
        return list(csv.DictReader(file))


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Look ten times a second, for as long as the process runs and five minutes at most."""
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, process.stdout and process.stdout.read()
        assert time.monotonic() < deadline, "it has not happened within five minutes"
        time.sleep(0.1)


def training_process(folder: Path) -> int | None:
    """The PID of the train.py that runs in this run's folder."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            arguments = path.read_bytes().decode().split("\0")
        except OSError:
            continue  # it has ended
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
