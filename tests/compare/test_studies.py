"""The studies in configs/studies use only options that exist."""

from pathlib import Path

import pytest

from tests.helpers.compare_command import compare_here
from tests.helpers.train_command import REPOSITORY

STUDIES = sorted((REPOSITORY / "configs/studies").glob("*.yaml"))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_each_run_of_a_study_is_one_that_train_py_takes(
    path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name = f"configs/studies/{path.name}"
    assert compare_here(monkeypatch, tmp_path, f"--study={name}", "--dry_run") == 0
    assert f"python compare.py --study {name}\n" in path.read_text()
