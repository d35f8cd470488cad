"""The environment: its installation, and the errors if it cannot be installed."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.helpers.train_command import REPOSITORY


def script(root: Path) -> ModuleType:
    """Import scripts/environment.py with `root` as the repository."""
    spec = importlib.util.spec_from_file_location("environment", REPOSITORY / "scripts/environment.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.ROOT = root
    return module


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with empty lock files."""
    shutil.copytree(REPOSITORY / "scripts", tmp_path / "scripts")
    (tmp_path / "locks").mkdir()
    for name in ("train", "dev", "uv"):
        (tmp_path / "locks" / f"{name}.txt").write_text("")
    return tmp_path


def put_uv(folder: Path, code: int) -> None:
    """Write a stand-in for uv. It records its arguments, and exits with `code`."""
    folder.mkdir(exist_ok=True)
    uv = folder / "uv"
    uv.write_text(
        f"#!{sys.executable}\nimport sys\nopen({str(folder / 'calls')!r}, 'a').write(' '.join(sys.argv[1:]) + '\\n')\n"
    )
    uv.write_text(uv.read_text() + f"raise SystemExit({code})\n")
    uv.chmod(0o755)


def make(repository: Path, kind: str, *, uv: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{uv}{os.pathsep}{os.environ['PATH']}"}
    command = [sys.executable, str(repository / "scripts/environment.py"), kind]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.mark.skipif(os.name == "nt", reason="the stand-in for uv is a script with a first line that names Python")
def test_an_interrupted_installation_starts_again(repository: Path, tmp_path: Path) -> None:
    programs = tmp_path / "programs"
    put_uv(programs, 1)
    done = make(repository, "train", uv=programs)
    assert done.returncode == 2
    assert done.stderr == (
        "error: .venv is incomplete; the reason is above. Without a network, run the command again where there is one. "
        "If your index lacks a locked version, install the versions that it has in an environment of your own: "
        "pip install -r requirements.txt. The next call starts again.\n"
    )
    assert not (repository / ".venv/train").exists()

    (repository / ".venv/half").touch()
    put_uv(programs, 0)
    assert make(repository, "train", uv=programs).returncode == 0
    assert (repository / ".venv/train").exists()
    assert not (repository / ".venv/half").exists()

    # The installation extends a complete environment, and keeps its files.
    (repository / ".venv/kept").touch()
    assert make(repository, "dev", uv=programs).returncode == 0
    assert {"train", "dev", "kept"} <= {path.name for path in (repository / ".venv").iterdir()}
    python = repository / ".venv/bin/python"
    calls = (programs / "calls").read_text().splitlines()
    assert calls[1:] == [f"pip install --python {python} --require-hashes -r locks/{n}.txt" for n in ("train", "dev")]


@pytest.mark.skipif(os.name == "nt", reason="the stand-in for uv is a script with a first line that names Python")
def test_ranges_are_resolved_anew_each_time(repository: Path, tmp_path: Path) -> None:
    put_uv(tmp_path / "programs", 0)
    for _ in range(2):
        assert make(repository, "newest", uv=tmp_path / "programs").returncode == 0
        assert not (repository / ".venv-newest/former").exists()
        (repository / ".venv-newest/former").touch()
    assert not (repository / ".venv").exists()


def test_a_python_that_is_too_old(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="2"):
        script(tmp_path).check_python((3, 10, 13, "final", 0))
    assert capsys.readouterr().err == (
        f"error: Python 3.11 or later is needed, and {sys.executable} is 3.10.13: make PYTHON=python3.12\n"
    )


def test_an_environment_that_is_not_known(repository: Path, tmp_path: Path) -> None:
    done = make(repository, "tset", uv=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "error: expected one of train, dev, lowest, newest, got 'tset'\n"
