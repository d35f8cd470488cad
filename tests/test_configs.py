"""Each file in configs/ trains, validates and tests a model."""

import re
from pathlib import Path

import pytest
import yaml

from tests.helpers.standin_data import use_standins
from tests.helpers.train_command import PLAIN, REPOSITORY, run_here

FILES = {path.stem: yaml.safe_load(path.read_text()) for path in sorted((REPOSITORY / "configs").glob("*.yaml"))}
WHOLE = [name for name, config in FILES.items() if "model" in config]
OVERLAYS = [name for name, config in FILES.items() if "model" not in config and name not in ("debug", "fsdp")]


@pytest.mark.parametrize("name", WHOLE)
def test_config_trains_and_tests(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    data = use_standins(monkeypatch, tmp_path)[FILES[name]["data"]["class_path"]]
    flags = [f"--data.{option}={value}" for option, value in {**data, "batch_size": 16}.items()]
    overlay = "configs/debug.yaml"
    run_here(monkeypatch, tmp_path, "fit", f"--config=configs/{name}.yaml", f"--config={overlay}", *flags, *PLAIN)
    folder = tmp_path / "runs/debug/version_0"
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    assert (folder / "config.yaml").is_file()


@pytest.mark.parametrize("name", OVERLAYS)
def test_overlay_applies_to_a_config(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    files = [f"--config=configs/{each}.yaml" for each in ("digits", name, "debug")]
    run_here(monkeypatch, tmp_path, "fit", *files, "--trainer.devices=1", *PLAIN)
    saved = yaml.safe_load((tmp_path / "runs/debug/version_0/config.yaml").read_text())
    for option, value in FILES[name]["trainer"].items():
        assert option == "devices" or saved["trainer"][option] == value


def test_fsdp_asks_for_a_gpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [f"--config=configs/{each}.yaml" for each in ("digits", "fsdp")]
    with pytest.raises(SystemExit, match="2"):
        run_here(monkeypatch, tmp_path, "fit", *files, "--trainer.accelerator=cpu", *PLAIN)
    assert "error: The strategy `fsdp` requires a GPU accelerator" in capsys.readouterr().err


@pytest.mark.parametrize("name", FILES)
def test_header_gives_the_command_and_the_hardware(name: str) -> None:
    text = (REPOSITORY / f"configs/{name}.yaml").read_text()
    header = text[: text.index("\n" + next(iter(FILES[name])))]
    assert f"--config configs/{name}.yaml" in header
    assert "Hardware" in header
    measured = re.search(r"test accuracy 0\.\d+", header) and re.search(r"\d+ (s|min)", header)
    assert measured or re.search(r"not measured|yours|means nothing", header, re.IGNORECASE)
