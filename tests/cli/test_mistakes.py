"""A user's mistake gives one complete message and exit code 2."""

from pathlib import Path

import pytest
import torch

from src.data import DATASETS as DATA
from src.models import MODELS as CLASSIFIERS
from src.norms import NORMS as FAMILIES
from tests.helpers.train_command import error_of, run_process

NORMS, DATASETS, MODELS = (", ".join(sorted(known)) for known in (FAMILIES, DATA, CLASSIFIERS))
NO_POSITIONS = (
    "norm=InstanceNorm: its statistics run over the positions of a sample, and a vector (B, D) has none; take a norm "
    "of the batch (BatchNorm) or of the features (LayerNorm, RMSNorm, GroupNorm)"
)
MISTAKES = {
    "--model.norm=BatchNrm": f"unknown norm 'BatchNrm'. Did you mean 'BatchNorm'? There are: {NORMS}",
    "--model.norm=batchnorm": f"unknown norm 'batchnorm'. Did you mean 'BatchNorm'? There are: {NORMS}",
    "--model.norm=Quux": f"unknown norm 'Quux'. There are: {NORMS}",
    "--model.norm.num_groups=4": (
        "unknown option of BatchNorm 'num_groups'. There are: eps, masked, momentum, track_running_stats"
    ),
    "--model.norm=GroupNorm --model.norm.num_group=4": (
        "unknown option of GroupNorm 'num_group'. Did you mean 'num_groups'? There are: eps, num_groups"
    ),
    "--model.norm=GroupNorm --model.norm.num_groups=48": (
        "GroupNorm does not fit layer 'bn1': 48 groups do not divide its 64 channels; num_groups=32 fits every norm "
        "asked for"
    ),
    "--model.norm=GroupNorm --model.norm.num_groups=0": "num_groups=0: expected a number above 0",
    "--model.norm.eps=0": "eps=0.0: expected a number above 0",
    "--data=Digit": f"unknown dataset 'Digit'. Did you mean 'Digits'? There are: {DATASETS}",
    "--data.batch_siz=3": (
        "unknown option of Digits 'batch_siz'. Did you mean 'batch_size'? There are: batch_size, covariate_shift, "
        "crop_padding, flip, num_workers, root, scaling, split_seed, test_fraction, val_fraction"
    ),
    "--data.batch_size=0": "batch_size=0: expected 1 or more. Set --data.batch_size.",
    "--data.scaling=standard": "data.scaling: expected one of 'standardize', 'minmax', 'none', got 'standard'",
    "--model=ImageClasifier": (f"unknown model 'ImageClasifier'. Did you mean 'ImageClassifier'? There are: {MODELS}"),
    "--data=MovingDigits": (
        "ImageClassifier reads images, and MovingDigits gives volumes: take other data, or one of these models: "
        "MLPClassifier, VolumeClassifier"
    ),
    "--config=configs/digits_mlp.yaml --data=Reuters8": (
        "MLPClassifier reads tables or images or volumes, and Reuters8 gives texts: take other data, or one of these "
        "models: TextClassifier, LSTMClassifier"
    ),
    "--config=configs/digits_mlp.yaml --model.norm=InstanceNorm": NO_POSITIONS,
    "--config=configs/reuters8_lstm.yaml --model.norm=InstanceNorm": NO_POSITIONS,
    "--config=configs/digits_mlp.yaml --model.norm=GroupNorm --model.norm.num_groups=128": (
        "GroupNorm does not fit layer 'norm1': 128 groups leave one value in each, which would always be normalized to "
        "0; num_groups=64 fits every norm asked for"
    ),
    "--config=configs/digits_mlp.yaml --model.init_scale=0": "init_scale=0.0: expected a number above 0",
    "--config=configs/digits_mlp.yaml --model.activation=gelu": (
        "model.activation: expected one of 'relu', 'sigmoid', 'tanh', got 'gelu'"
    ),
    "--config=configs/breast_cancer.yaml --data.scaling=raw": (
        "data.scaling: expected one of 'standardize', 'minmax', 'none', got 'raw'"
    ),
    "--config=configs/moving_digits.yaml --data.num_frames=20": (
        "num_frames=20: expected at most 9, after which a digit would leave its frame. Set --data.num_frames."
    ),
    "--config=configs/moving_digits.yaml --model.norm=GroupNorm": (
        "GroupNorm does not fit layer 'stem.1': 32 groups do not divide its 16 channels; num_groups=16 fits every norm "
        "asked for"
    ),
    "--model.backbon=resnet50": (
        "unknown option of ImageClassifier 'backbon'. Did you mean 'backbone'? There are: backbone, channels_last, "
        "compile, norm, recipe, stem, weights, width"
    ),
    "--model.recipe.lr=fast": "model.recipe.lr: expected float, got 'fast'",
    "--model.recipe.lr=-1": "recipe.lr=-1.0: expected a number above 0",
    "--model.recipe.schedule=step": (
        "model.recipe.schedule: expected one of 'cosine', 'one_cycle', 'constant', got 'step'"
    ),
    "--trainer.max_epoch=3": (
        "unknown option 'trainer.max_epoch'. Did you mean 'trainer.max_epochs'? All options: python train.py fit --help"
    ),
    "--trainer.max_epochs=-1": (
        "the learning rate's schedule needs an end: set --trainer.max_epochs or --trainer.max_steps"
    ),
    "--trainer.max_epochs=ten": "trainer.max_epochs: expected int or null, got 'ten'",
    "--config mistake.yaml": (
        "unknown option 'trainer.max_epoch'. Did you mean 'trainer.max_epochs'? All options: python train.py fit --help"
    ),
    "--config nested.yaml": (
        "unknown option of GroupNorm 'num_group'. Did you mean 'num_groups'? There are: eps, num_groups"
    ),
    "--config nowhere.yaml": "cannot read the configuration nowhere.yaml: No such file or directory",
    "--config broken.yaml": (
        'the configuration broken.yaml is not YAML: while parsing a flow sequence in "broken.yaml", line 1, column 4 '
        "expected ',' or ']', but got '<stream end>' in \"broken.yaml\", line 2, column 1"
    ),
    "--config text.yaml": ("the configuration text.yaml holds no options: expected lines such as 'seed_everything: 0'"),
    "--model.recipe.lrr=2": (
        "unknown option 'model.recipe.lrr'. Did you mean 'model.recipe.lr'? All options: python train.py fit --help"
    ),
    "--model.norm.eps=tiny": "model.norm.eps: expected float or null, got 'tiny'",
    "--model.norm='{class_path: GroupNorm, init_args: {num_groups: few}}'": (
        "model.norm.num_groups: expected int or null, got 'few'"
    ),
    "--model.norm=src.norms.BatchNrm": (
        f"unknown norm 'src.norms.BatchNrm'. Did you mean 'BatchNorm'? There are: {NORMS}"
    ),
    "--model.norm=torch.nn.LayerNorm": (
        f"unknown norm 'torch.nn.LayerNorm'. Did you mean 'LayerNorm'? There are: {NORMS}"
    ),
    "--data=Reuters8 --data.vocab_size=64 --data.max_lenght=9": (
        "unknown option of Reuters8 'max_lenght'. Did you mean 'max_length'? There are: batch_size, bucketing, "
        "max_length, num_workers, root, split_seed, token_dropout, tokenizer, val_fraction, vocab_size"
    ),
    "--config=configs/fsdp.yaml --trainer.max_epoch=3": (
        "unknown option 'trainer.max_epoch'. Did you mean 'trainer.max_epochs'? All options: python train.py fit --help"
    ),
    "--data=ImageFolder": "ImageFolder needs an option that is not given: --data.folder",
    "--seed_everything=many": "seed_everything: expected bool or int, got 'many'",
    "--nrom=3": "unknown option 'nrom'. All options: python train.py fit --help",
    "--norm_statistics.every=3": (
        "unknown option 'norm_statistics.every'. Did you mean 'norm_statistics.every_n_steps'? All options: python "
        "train.py fit --help"
    ),
    "--trainer.callbacks=EarlyStopping": (
        "EarlyStopping needs an option that is not given: --trainer.callbacks.monitor"
    ),
    "--trainer.accelerator=cpu --trainer.devices=two": (
        "accelerator=cpu and devices=two do not fit (`devices` selected with `CPUAccelerator` should be an int > 0.). "
        "Set --trainer.devices to a number of processes."
    ),
    "--trainer.num_nodes=0": "`num_nodes` must be a positive integer, but got 0.",
    "--timeout=0": "timeout=0.0: expected a number of seconds above 0",
    "--ckpt_path=nowhere.ckpt": "checkpoint 'nowhere.ckpt' does not exist",
    "--ckpt_path=mistake.yaml": "'mistake.yaml' is not a checkpoint of train.py, or it is damaged",
    "--trainer.sync_batchnorm=true --trainer.strategy=ddp --trainer.accelerator=cpu --trainer.devices=2 "
    "--model.norm=TorchBatchNorm": (
        "sync_batchnorm cannot be honoured for layer 'backbone.bn1' (BatchNorm2d): torch synchronizes its own batch "
        "norms on GPUs alone. The project's own norms synchronize everywhere: --model.norm=BatchNorm; norms of single "
        "samples, such as GroupNorm and LayerNorm, need not."
    ),
    "--data=ImageFolder --data.folder=nowhere": (
        "There is no folder {folder}/nowhere. Expected one with a subfolder per class, or with train/ that holds them. "
        "Set --data.folder."
    ),
    "--model=TextClassifier --data=TextFiles --data.train=nowhere.csv": (
        "There is no file {folder}/nowhere.csv. Correct the path."
    ),
}


@pytest.mark.parametrize("arguments", MISTAKES)
def test_fit(
    arguments: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "mistake.yaml").write_text("trainer:\n  max_epoch: 3\n")
    norm = "{class_path: GroupNorm, init_args: {num_group: 4}}"
    (tmp_path / "nested.yaml").write_text(f"model:\n  init_args:\n    norm: {norm}\n")
    (tmp_path / "broken.yaml").write_text("a: [1\n")
    (tmp_path / "text.yaml").write_text("word\n")
    shown = error_of(monkeypatch, capsys, tmp_path, f"fit --config=configs/digits.yaml {arguments}")
    assert shown == f"error: {MISTAKES[arguments]}".replace("{folder}", str(tmp_path))
    assert not list(tmp_path.rglob("*.ckpt"))


def test_an_unknown_backbone_lists_what_there_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    import torchvision

    known = ", ".join(sorted(torchvision.models.list_models(module=torchvision.models)))
    shown = error_of(monkeypatch, capsys, tmp_path, "fit --config=configs/digits.yaml --model.backbone=resnet81")
    assert shown == f"error: unknown backbone 'resnet81'. Did you mean 'resnet18'? There are: {known}"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--trainer.callbacks=EarlyStoping", "unknown trainer.callbacks 'EarlyStoping'. Did you mean 'EarlyStopping'?"),
        ("--trainer.logger=CSVLoger", "unknown trainer.logger 'CSVLoger'. Did you mean 'CSVLogger'?"),
        (
            "--trainer.callbacks=EarlyStopping --trainer.callbacks.monitr=val/loss",
            "unknown option of EarlyStopping 'monitr'. Did you mean 'monitor'?",
        ),
        ("--trainer.precision=17", "trainer.precision: expected one of 64, 32, 16, "),
        # For an unforeseen mistake, the message is that of the code that detects it.
        ("surplus", ""),
        ("--experiment", ""),
        ("--trainer=3", ""),
        ("--trainer.profiler=quick", ""),
        ("--trainer.strategy=quick", ""),
        ("--trainer.callbacks=GradientAccumulationScheduler --trainer.callbacks.scheduling='{0: many}'", ""),
    ],
)
def test_a_mistake_is_one_line(
    arguments: str, expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shown = error_of(monkeypatch, capsys, tmp_path, f"fit --config=configs/digits.yaml {arguments}")
    assert shown.startswith(f"error: {expected}")
    assert len(shown.splitlines()) == 1
    assert expected or len(shown) < 400


@pytest.mark.parametrize(
    ("num_gpus", "arguments", "expected"),
    [
        (
            0,
            "--trainer.accelerator=gpu",
            "there is no accelerator of the kind asked for: take --trainer.accelerator=auto",
        ),
        (0, "--trainer.accelerator=cuda --trainer.devices=2", "there is no accelerator of the kind asked for"),
        (
            2,
            "--trainer.devices=4",
            "the command asks for the GPUs 0, 1, 2, 3, and there are 0, 1: lower --trainer.devices",
        ),
    ],
)
def test_gpus_that_are_not_there(
    num_gpus: int,
    arguments: str,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_gpus)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: num_gpus > 0)
    shown = error_of(monkeypatch, capsys, tmp_path, f"fit --config=configs/digits.yaml {arguments}")
    assert shown.startswith(f"error: {expected}")


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        ("", "1 devices on 1 nodes make 1"),  # each process would train by itself
        ("--trainer.devices=3 --trainer.strategy=ddp", "3 devices on 1 nodes make 3"),
        ("--trainer.devices=2 --trainer.num_nodes=2 --trainer.strategy=ddp", "2 devices on 2 nodes make 4"),
    ],
)
def test_another_number_of_processes_than_was_started(
    arguments: str,
    asked: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    started = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "GROUP_RANK": "0"}
    for name, value in {**started, "TORCHELASTIC_RUN_ID": "none"}.items():
        monkeypatch.setenv(name, value)
    command = f"fit --config=configs/digits.yaml --trainer.accelerator=cpu {arguments}"
    assert error_of(monkeypatch, capsys, tmp_path, command) == (
        f"error: 2 processes were started (WORLD_SIZE=2), and {asked}: set --trainer.devices=2 --trainer.num_nodes=1, "
        f"or start {asked.rsplit(maxsplit=1)[1]}"
    )


@pytest.mark.parametrize("command", ["test", "validate", "predict"])
def test_other_commands_need_weights(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = "--config=configs/digits.yaml"
    assert error_of(monkeypatch, capsys, tmp_path, f"{command} {config}") == (
        f"error: {command} needs trained weights: --ckpt_path=best (the newest run's), or a file"
    )
    assert error_of(monkeypatch, capsys, tmp_path, f"{command} {config} --ckpt_path=best") == (
        "error: --ckpt_path=best: the newest run in runs/digits has none; run fit first"
    )


def test_maps_too_small_for_a_norm(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shown = error_of(monkeypatch, capsys, tmp_path, "fit --config=configs/digits.yaml --model.norm=InstanceNorm")
    assert shown == (
        "error: a norm cannot take the statistics of a single value (Expected more than 1 spatial element when "
        "training, got input size torch.Size([64, 512, 1, 1])): take larger images, a backbone or stem that shrinks "
        "them less, larger batches, or another norm"
    )


def test_a_missing_dataset_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from urllib.error import URLError

    from torchvision import datasets

    def no_network(*args: object, **kwargs: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr(datasets.mnist, "download_and_extract_archive", no_network)
    shown = error_of(monkeypatch, capsys, tmp_path, "fit --config=configs/fashion_mnist.yaml")
    assert "dataset-fashion-mnist" in shown
    assert "--data.root" in shown
    assert not [path for path in (tmp_path / "data").rglob("*") if path.is_file()]


def test_no_traceback_from_a_process_of_its_own(tmp_path: Path) -> None:
    done = run_process(tmp_path, "fit", "--config=configs/digits.yaml", "--model.norm=BatchNrm")
    assert done.returncode == 2
    assert done.stderr == f"error: {MISTAKES['--model.norm=BatchNrm']}\n"
    assert done.stdout == ""


def test_no_arguments_show_the_first_commands(tmp_path: Path) -> None:
    done = run_process(tmp_path)
    assert done.returncode == 0
    commands = [line.split("  ")[1] for line in done.stdout.split("\n") if line.startswith("  ")]
    assert commands == [
        "python train.py fit --config configs/digits.yaml",
        "python train.py fit --config configs/digits.yaml --model.norm=GroupNorm",
        "python train.py fit --config configs/reuters8.yaml",
        "python train.py test --config configs/digits.yaml --ckpt_path=best",
        "tensorboard --logdir runs",
    ]
