"""Checkpoints that fit a command, and the errors for checkpoints that do not."""

from pathlib import Path

import pytest
import torch

from src.cli.checkpoint_match import SavedModel, hyperparameter_differences, weight_differences
from src.machine import versions
from src.norms.families import BatchNorm
from tests.helpers.train_command import PLAIN, error_of, run_here


def test_a_checkpoint_of_another_model(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    files = "--config=configs/digits.yaml --config=configs/debug.yaml"
    run_here(monkeypatch, tmp_path, "fit", *files.split(), *PLAIN)
    head = (
        "error: the checkpoint runs/debug/version_0/checkpoints/best.ckpt does not fit the command (it was made with "
        "--config runs/debug/version_0/config.yaml)\n  "
    )
    for arguments, line in {
        "--model.norm=GroupNorm": ("norm: the checkpoint has BatchNorm(), the command asks for GroupNorm()"),
        "--model.norm.eps=0.1": "norm: the checkpoint has BatchNorm(), the command asks for BatchNorm(eps=0.1)",
        "--model.norm=null": "norm: the checkpoint has BatchNorm(), the command asks for None",
        "--model.backbone=resnet34": ("backbone: the checkpoint has 'resnet18', the command asks for 'resnet34'"),
        "--model.stem=standard": "stem: the checkpoint has 'small', the command asks for 'standard'",
        "--model.width=48": "width: the checkpoint has None, the command asks for 48",
    }.items():
        shown = error_of(monkeypatch, capsys, tmp_path, f"test {files} --ckpt_path=best {arguments}")
        assert shown == head + line

    # An option that cannot change the weights may differ from the checkpoint's. In a resumed training, the recipe may
    # not differ: the optimizer's state depends on it.
    free = ["--model.recipe.lr=0.5", "--model.channels_last=true"]
    run_here(monkeypatch, tmp_path, "test", *files.split(), "--ckpt_path=best", *free, *PLAIN)
    shown = error_of(monkeypatch, capsys, tmp_path, f"fit {files} --ckpt_path=last --model.recipe.lr=0.5")
    assert shown.endswith("recipe.lr: the checkpoint has 0.03, the command asks for 0.5")


def test_a_checkpoint_of_another_version(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    files = "--config=configs/digits.yaml --config=configs/debug.yaml"
    run_here(monkeypatch, tmp_path, "fit", *files.split(), *PLAIN)
    path = tmp_path / "runs/debug/version_0/checkpoints/last.ckpt"
    checkpoint = torch.load(path, weights_only=True)

    del checkpoint["versions"]  # as in checkpoints from before versions were saved
    torch.save(checkpoint, path)
    run_here(monkeypatch, tmp_path, "test", *files.split(), "--ckpt_path=last", *PLAIN)

    checkpoint["versions"] = {**versions(), "lightning-norms": "9.0"}
    torch.save(checkpoint, path)
    run_here(monkeypatch, tmp_path, "test", *files.split(), "--ckpt_path=last", *PLAIN)

    weights = checkpoint["state_dict"]
    weights["backbone.norm1.weight"] = weights.pop("backbone.bn1.weight")
    weights["backbone.fc.bias"] = torch.zeros(7)
    torch.save(checkpoint, tmp_path / "other.ckpt")
    here = versions()["lightning-norms"]
    for command in ("test", "fit"):
        assert error_of(monkeypatch, capsys, tmp_path, f"{command} {files} --ckpt_path=other.ckpt") == (
            "error: the checkpoint other.ckpt does not fit the command\n"
            "  weights that the model does not have: backbone.norm1.weight\n"
            "  weights that the checkpoint does not have: backbone.bn1.weight\n"
            "  weights of other shapes: backbone.fc.bias\n"
            f"  it was made with lightning-norms 9.0 (here {here}): install these versions, or train again"
        )


def test_weights_whose_shapes_are_not_known_yet_are_not_compared() -> None:
    class Late(torch.nn.Module):
        strict_loading = True

        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.LazyLinear(3)

        def get_extra_state(self) -> str:
            return "no tensor"

    model = Late()
    saved = SavedModel(Path("last.ckpt"), {}, {"layer.weight": torch.Size((3, 2)), "other": torch.Size()}, {})
    assert weight_differences(model, saved) == []
    model.layer(torch.ones(1, 2))
    assert weight_differences(model, saved) == [
        "weights that the model does not have: other",
        "weights that the checkpoint does not have: layer.bias",
    ]
    model.strict_loading = False
    assert weight_differences(model, saved) == []


def test_a_checkpoint_from_before_an_option_was_there() -> None:
    before = {"class_path": "src.norms.families.BatchNorm", "init_args": {"eps": None, "momentum": 0.2}}
    for norm, fits in ((BatchNorm(momentum=0.2), True), (BatchNorm(momentum=0.2, masked=False), False)):
        assert (hyperparameter_differences({"norm": norm.spec()}, {"norm": before}, resuming=True) == []) == fits
