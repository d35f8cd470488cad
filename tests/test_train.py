"""A run from the command line, and the files that it writes."""

import csv
import importlib.metadata
import re
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch
import yaml
from lightning import Callback, LightningModule, Trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from src.cli import TrainCLI
from src.data import Digits
from src.machine import commit, hardware, versions
from src.models import ImageClassifier
from src.norms import NORMS
from tests.helpers.standin_data import make_image_folder
from tests.helpers.train_command import PLAIN, REPOSITORY, error_of, run_here, run_process

DIGITS = ["--config=configs/digits.yaml", *PLAIN]
ONE_EPOCH = ["--trainer.max_epochs=1", "--data.batch_size=16", "--model.recipe.lr=0.02"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder and the output of a process that trains on digits for one epoch."""
    folder = tmp_path_factory.mktemp("run")
    done = run_process(folder, "fit", *DIGITS, *ONE_EPOCH)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def events(version: Path) -> EventAccumulator:
    return EventAccumulator(str(version)).Reload()


def test_the_last_lines_say_how_well_and_where(run: tuple[Path, str]) -> None:
    folder, shown = run
    last = shown.rstrip().split("\n")[-3:]
    assert re.fullmatch(r"Test accuracy  0\.\d{4}", last[0])
    assert last[1] == "Checkpoint     runs/digits/version_0/checkpoints/best.ckpt"
    assert re.fullmatch(r"TensorBoard    (\S*/)?tensorboard --logdir runs/digits", last[2])
    assert (folder / last[1].split()[1]).is_file()


def test_tensorboard_has_the_curves(run: tuple[Path, str]) -> None:
    tags = events(run[0] / "runs/digits/version_0").Tags()
    expected = ["train/loss", "train/loss_epoch", "train/accuracy", "train/samples_per_second", "lr-SGD/pg1", "epoch"]
    expected += [f"{split}/{score}" for split in ("val", "test") for score in ("loss", "accuracy", "f1")]
    assert set(expected) <= set(tags["scalars"])
    assert {"config/text_summary", "environment/text_summary"} <= set(tags["tensors"])


def test_it_learned(run: tuple[Path, str]) -> None:
    (accuracy,) = events(run[0] / "runs/digits/version_0").Scalars("test/accuracy")
    assert accuracy.value > 0.5  # chance is 0.1


def test_hyperparameters_stand_beside_the_final_score(run: tuple[Path, str]) -> None:
    from tensorboard.plugins.hparams import plugin_data_pb2

    found = events(run[0] / "runs/digits/version_0")
    metadata = found.summary_metadata["_hparams_/session_start_info"]
    content = plugin_data_pb2.HParamsPluginData.FromString(metadata.plugin_data.content)
    options = {name: value.string_value for name, value in content.session_start_info.hparams.items()}
    assert options["model/norm"] == "BatchNorm()"
    assert options["data"] == "Digits"
    (accuracy,) = found.Scalars("test/accuracy")
    assert found.Scalars("hp/test/accuracy")[0].value == accuracy.value


def test_what_it_ran_on_is_saved(run: tuple[Path, str]) -> None:
    version = run[0] / "runs/digits/version_0"
    (ran,) = yaml.safe_load((version / "environment.yaml").read_text())
    commands = ["git", "rev-parse", "HEAD"], ["git", "status", "--porcelain"]
    head, changes = (subprocess.run(c, cwd=REPOSITORY, capture_output=True, text=True).stdout for c in commands)
    expected = {
        "command": shlex.join(["python", str(REPOSITORY / "train.py"), "fit", *DIGITS, *ONE_EPOCH]),
        "seed": 0,
        "hardware": hardware(),
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "processes": 1,
        "precision": "32-true",
        "commit": head.strip() or None,
        "clean": not changes if head else None,
        "versions": versions(),
    }
    assert (datetime.now(UTC) - datetime.fromisoformat(ran.pop("started"))).total_seconds() < 3600
    assert ran == expected
    checkpoint = torch.load(version / "checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["versions"] == versions()
    assert versions()["torch"] == importlib.metadata.version("torch")


def test_without_git_the_commit_is_not_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert commit()[0]
    monkeypatch.setattr("src.machine.REPOSITORY", tmp_path)
    assert commit() == (None, None)
    monkeypatch.setenv("PATH", "")
    assert commit() == (None, None)


def test_the_saved_config_is_whole(run: tuple[Path, str]) -> None:
    config = yaml.safe_load((run[0] / "runs/digits/version_0/config.yaml").read_text())
    assert config["seed_everything"] == 0
    assert config["model"]["init_args"]["norm"]["class_path"] == "src.norms.families.BatchNorm"
    assert config["data"]["init_args"]["batch_size"] == 16
    assert config["trainer"]["max_epochs"] == 1


def test_the_checkpoint_loads_without_the_cli(run: tuple[Path, str]) -> None:
    path = run[0] / "runs/digits/version_0/checkpoints/best.ckpt"
    model = ImageClassifier.load_from_checkpoint(path, weights_only=True)
    assert model.hparams["norm"]["class_path"] == "src.norms.families.BatchNorm"
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_testing_again_gives_the_same_score(
    run: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, shown = run
    before = sorted(folder.rglob("*"))
    run_here(monkeypatch, folder, "test", *DIGITS, *ONE_EPOCH, "--ckpt_path=best")
    assert sorted(folder.rglob("*")) == before  # testing creates no new run
    again = re.search(r"test/accuracy\s+│\s+(0\.\d+)", capsys.readouterr().out)
    assert again
    assert f"{float(again[1]):.4f}" in shown


def test_predictions_are_a_table_in_the_datas_order(
    run: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, shown = run
    run_here(monkeypatch, folder, "predict", *DIGITS, "--ckpt_path=best")
    path = "runs/digits/version_0/checkpoints/predictions.csv"
    assert capsys.readouterr().out.rstrip().endswith(f"Predictions    {path}")
    with (folder / path).open() as file:
        rows = list(csv.DictReader(file))
    data = Digits()
    data.setup("test")
    labels = [str(label) for label in data.datasets["test"].labels]
    assert [int(row["sample"]) for row in rows] == list(range(len(labels)))
    right = sum(row["class"] == label for row, label in zip(rows, labels, strict=True))
    assert f"{right / len(labels):.4f}" in shown


class Watch(Callback):
    """Copies the training batches, and can stop a run abruptly, as a power cut does."""

    def __init__(self, stop_before_epoch: int | None = None):
        self.batches: list[torch.Tensor] = []
        self.stop_before_epoch = stop_before_epoch

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        if trainer.current_epoch == self.stop_before_epoch and batch_idx == 1:
            raise InterruptedError
        self.batches.append(batch[0].clone())  # type: ignore[index]


def watch_runs(monkeypatch: pytest.MonkeyPatch, watch: Watch) -> None:
    """Add a callback to each trainer that is created later."""
    original = TrainCLI.instantiate_trainer

    def instantiate_trainer(cli: TrainCLI) -> Trainer:
        trainer = original(cli)
        trainer.callbacks.append(watch)  # type: ignore[attr-defined]
        return trainer

    monkeypatch.setattr(TrainCLI, "instantiate_trainer", instantiate_trainer)


FEW = [
    *["--trainer.max_epochs=2", "--trainer.limit_train_batches=3", "--trainer.limit_val_batches=1"],
    "--trainer.log_every_n_steps=1",
]


def test_every_norm_sees_the_same_batches(tmp_path: Path) -> None:
    """The batches of all norms are equal to the bit, in order and in augmentation."""
    folder = make_image_folder(tmp_path / "images", per_class=30)
    config = [
        "--config=configs/image_folder.yaml",
        f"--data.folder={folder}",
        "--data.batch_size=8",
        "--model.recipe.lr=0.001",
        "--model.width=32",  # GroupNorm has 32 groups
        *PLAIN,
    ]
    seen = {}
    for name in NORMS:
        with pytest.MonkeyPatch.context() as patch:
            watch_runs(patch, watch := Watch())
            run_here(patch, tmp_path, "fit", *config, *FEW, f"--model.norm={name}")
        seen[name] = torch.stack(watch.batches)
    assert len({batches.numpy().tobytes() for batches in seen.values()}) == 1
    assert not torch.equal(seen["BatchNorm"][:3], seen["BatchNorm"][3:])  # epochs differ


@pytest.mark.parametrize(
    "flags",
    [[], pytest.param(["--trainer.check_val_every_n_epoch=2"], marks=pytest.mark.slow)],
    ids=["", "validated seldom"],
)
def test_a_killed_run_goes_on_with_the_same_command(flags: list[str], tmp_path: Path) -> None:
    command = ["fit", *DIGITS, *FEW, *flags, "--ckpt_path=last"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir(), cut.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        run_here(patch, whole, *command)
    with pytest.MonkeyPatch.context() as patch:
        watch_runs(patch, Watch(stop_before_epoch=1))
        with pytest.raises(InterruptedError):
            run_here(patch, cut, *command)
    with pytest.MonkeyPatch.context() as patch:
        watch_runs(patch, watch := Watch())
        run_here(patch, cut, *command)
    assert len(watch.batches) == 3  # only the second epoch
    assert [p.name for p in (cut / "runs/digits").iterdir()] == ["version_0"]
    states = [
        torch.load(folder / "runs/digits/version_0/checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for folder in (whole, cut)
    ]
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)


def test_a_run_can_be_made_longer(tmp_path: Path) -> None:
    """The command's number of epochs, and its schedule, replace those of the checkpoint."""
    for epochs in (1, 2):
        with pytest.MonkeyPatch.context() as patch:
            command = ["fit", *DIGITS, *FEW, "--ckpt_path=last", f"--trainer.max_epochs={epochs}"]
            run_here(patch, tmp_path, *command)
    state = torch.load(tmp_path / "runs/digits/version_0/checkpoints/last.ckpt", weights_only=True)
    assert state["global_step"] == 6


def test_a_checkpoint_of_other_data_is_refused(
    run: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    names = [f"class{number}" for number in range(10)]
    folder = make_image_folder(tmp_path / "images", names=names)
    checkpoint = run[0] / "runs/digits/version_0/checkpoints/best.ckpt"
    command = f"test --config=configs/digits.yaml --data=ImageFolder --data.folder={folder} --ckpt_path={checkpoint}"
    shown = error_of(monkeypatch, capsys, tmp_path, command)
    assert "in_channels: the checkpoint has 1, the command asks for 3" in shown

    # The shapes are equal, and only the classes differ.
    monkeypatch.setattr(Digits, "class_names", names)
    shown = error_of(monkeypatch, capsys, tmp_path, f"test --config=configs/digits.yaml --ckpt_path={checkpoint}")
    assert shown.startswith("error: The checkpoint was trained on the classes 0, 1, 2")


def test_two_processes_make_one_run(tmp_path: Path) -> None:
    few = ["--config=configs/debug.yaml", "--trainer.limit_test_batches=null"]
    # No part of the run may depend on the other samples of its process's batch, or draw random numbers by process.
    few += ["--model.norm=GroupNorm", "--data.crop_padding=0", "--model.recipe.lr=0.001"]
    both = ["--trainer.strategy=ddp", "--trainer.devices=2", "--data.batch_size=8"]
    done = run_process(tmp_path, "fit", *DIGITS, *few, *both)
    assert done.returncode == 0, done.stderr
    assert [p.name for p in (tmp_path / "runs/debug").iterdir()] == ["version_0"]
    assert done.stdout.count("Test accuracy") == 1
    two = events(tmp_path / "runs/debug/version_0")
    (accuracy,) = two.Scalars("test/accuracy")
    # The accuracy is a whole number of the 270 test samples: no sample is counted twice.
    assert accuracy.value * 270 == pytest.approx(round(accuracy.value * 270), abs=1e-3)

    with pytest.MonkeyPatch.context() as patch:
        run_here(patch, tmp_path, "fit", *DIGITS, *few, "--data.batch_size=16", "--experiment=one")
    one = events(tmp_path / "runs/one/version_0")
    for score in ("train/loss_epoch", "train/accuracy"):
        assert two.Scalars(score)[0].value == pytest.approx(one.Scalars(score)[0].value, rel=1e-4)


def test_the_command_line_imports_no_datasets_library() -> None:
    """Help and error messages do not wait for slow imports that only a run needs."""
    # Some versions of transformers import scikit-learn and pandas themselves.
    script = (
        "import sys, lightning, transformers.modeling_utils; before = {*sys.modules}; import src.cli; "
        "print(*({'sklearn', 'pandas', 'tensorboard', 'onnx'} & sys.modules.keys() - before))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr
