"""Comparisons from the command line, with real runs."""

import os
import re
import select
import signal
from pathlib import Path

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from src.compare import read_scalars
from src.compare.main import hold
from tests.helpers.compare_command import (
    TINY,
    compare_here,
    error_of,
    is_running,
    rows,
    start,
    training_process,
    wait_until,
)
from tests.helpers.train_command import REPOSITORY

FAILS_WITH_GROUP_NORM = """
import runpy, sys
if "--model.norm=GroupNorm" in sys.argv:
    1 / 0
sys.path.insert(0, {script!r}.removesuffix("train.py"))
runpy.run_path({script!r}, run_name="__main__")
"""
EACH = {"BatchNorm": "finished", "Identity": "finished"}


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison that was killed in the middle of its second run."""
    folder = tmp_path_factory.mktemp("comparison")
    study = {"norms": list(EACH), "seeds": 1, "set": {"trainer.max_epochs": 9}, "target": 0.01}
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    process = start(folder, *command())
    second = folder / "runs/compare/study/Identity/seed_0"
    wait_until((second / "version_0/checkpoints/last.ckpt").is_file, process)
    pid = training_process(second)
    assert pid
    process.kill()
    process.communicate()
    wait_until_ended(pid)
    return folder


def command() -> list[str]:
    """A command whose flags override the keys of the study."""
    return [*TINY, "--study=study.yaml", "--trainer.max_epochs=6"]


def wait_until_ended(pid: int) -> None:
    """Wait until the kernel has ended the run of a killed comparison."""
    descriptor = os.pidfd_open(pid) if is_running(pid) else None
    if descriptor is not None:
        assert select.select([descriptor], [], [], 60)[0], "the run goes on without its comparison"
        os.close(descriptor)


@pytest.fixture(scope="module")
def comparison(interrupted: Path) -> tuple[Path, dict[Path, int]]:
    """The folder after the same command again, and the times of the first run's files before it."""
    first = interrupted / "runs/compare/study/BatchNorm"
    before = {path: path.stat().st_mtime_ns for path in first.rglob("*")}
    with pytest.MonkeyPatch.context() as patch:
        assert compare_here(patch, interrupted, *command()) == 0
    return interrupted / "runs/compare/study", before


def test_what_was_finished_is_not_run_again(comparison: tuple[Path, dict[Path, int]]) -> None:
    folder, before = comparison
    assert {path: path.stat().st_mtime_ns for path in (folder / "BatchNorm").rglob("*")} == before


def test_what_was_interrupted_goes_on(comparison: tuple[Path, dict[Path, int]]) -> None:
    run = comparison[0] / "Identity/seed_0"
    assert "Restored all states" in (run / "log.txt").read_text()
    assert [path.name for path in run.glob("version_*")] == ["version_0"]
    steps = [step for step, _, _ in read_scalars(run / "version_0")["train/loss"]]
    assert steps == sorted(set(steps))
    assert len(steps) == 24  # six epochs, each step once


def test_the_tables_hold_what_the_runs_logged(comparison: tuple[Path, dict[Path, int]]) -> None:
    folder, _ = comparison
    found = rows(folder / "runs.csv")
    assert {row["norm"]: row["status"] for row in found} == EACH
    for row in found:
        ((_, _, accuracy),) = read_scalars(folder / row["norm"] / "seed_0/version_0")["test/accuracy"]
        assert float(row["test_accuracy"]) == accuracy
        assert float(row["ms_per_step"]) > 0
        assert float(row["peak_memory_bytes"]) > 100 * 2**20
        assert (row["epochs_to_target"] == "1") == (float(row["seconds_to_target"] or 0) > 0)
    difference = float(found[1]["test_accuracy"]) - float(found[0]["test_accuracy"])
    table = rows(folder / "table.csv")
    assert float(table[1]["difference"]) == pytest.approx(difference)
    assert (table[0]["difference"], table[1]["difference_low"]) == ("", "")  # the baseline; one seed has no interval
    markdown = (folder / "table.md").read_text()
    assert f"| Identity | {float(found[1]['test_accuracy']):.4f} | {difference:+.4f} (one seed) |" in markdown
    assert "`python compare.py --config configs/digits.yaml" in markdown
    assert re.search(r"torch \d+\.\d+", markdown)
    assert (folder / "chart.png").read_bytes().startswith(b"\x89PNG")


def test_tensorboards_hparams_page_holds_the_final_metric(comparison: tuple[Path, dict[Path, int]]) -> None:
    folder, _ = comparison
    for norm in EACH:
        version = folder / norm / "seed_0/version_0"
        norms, scores = set(), set()
        for path in version.glob("events.*"):
            events = EventAccumulator(str(path)).Reload()
            if metadata := events.summary_metadata.get("_hparams_/session_start_info"):
                content = plugin_data_pb2.HParamsPluginData.FromString(metadata.plugin_data.content)
                norms.add(content.session_start_info.hparams["model/norm"].string_value)
            if "hp/test/accuracy" in events.Tags()["scalars"]:
                scores.add(events.Scalars("hp/test/accuracy")[0].value)
        assert norms == {f"{norm}()"}
        assert scores == {value for _, _, value in read_scalars(version)["test/accuracy"]}


def test_a_run_that_fails_and_one_that_diverges(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The failed run is reported. The comparison still makes the second run and writes its tables."""
    (tmp_path / "train.py").write_text(FAILS_WITH_GROUP_NORM.format(script=str(REPOSITORY / "train.py")))
    monkeypatch.setattr("src.compare.run.REPOSITORY", tmp_path)
    flags = ["--norms=GroupNorm(num_groups=2),Identity", "--learning_rates=1e30", "--trainer.max_epochs=9"]
    flags += ["--seeds=1", "--output=out"]
    assert compare_here(monkeypatch, tmp_path, *TINY, *flags) == 1
    shown = capsys.readouterr().out
    log = "out/GroupNorm_num_groups=2_lr=1e+30/seed_0/log.txt"
    assert f"failed: GroupNorm(num_groups=2), lr=1e+30, seed 0: ZeroDivisionError: division by zero ({log})" in shown
    assert "Identity, lr=1e+30, seed 0: diverged: a loss was not finite" in shown
    found = rows(tmp_path / "out/table.csv")
    assert [(row["finished"], row["diverged"], row["failed"]) for row in found] == [("0", "0", "1"), ("0", "1", "0")]
    epochs = read_scalars(tmp_path / "out/Identity_lr=1e+30/seed_0/version_0")["train/loss_epoch"]
    assert len(epochs) == 1  # of 9 epochs


def test_the_number_of_runs_is_said_first_and_a_dry_run_starts_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--config=configs/digits.yaml", "--norms=BatchNorm,null", "--batch_sizes=16,64", "--seeds=3", "--jobs=2"]
    assert compare_here(monkeypatch, tmp_path, *flags, "--dry_run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "12 runs: 4 arms x 3 seeds, 2 at once, 1 thread each; in runs/compare/digits"
    assert lines[1] == "  BatchNorm, batch_size=16, seed 0: not started"
    assert len(lines) == 13
    assert not list(tmp_path.rglob("run.json"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "nothing to compare: give --config=configs/digits.yaml and --norms=BatchNorm,LayerNorm, or --study=FILE"),
        ("--config=configs/digits.yaml --nroms=BatchNorm", "unknown option 'nroms'. Did you mean 'norms'?"),
        ("--config=configs/digits.yaml --norms=BatchNrm", "unknown norm 'BatchNrm'. Did you mean 'BatchNorm'?"),
        ("--config=configs/digits.yaml --norms='GroupNorm(groups=8)'", "unknown option of GroupNorm 'groups'."),
        ("--config=configs/digit.yaml", "configs/digit.yaml"),
        ("--config=configs/digits.yaml --trainer.max_epoch=3", "unknown option 'trainer.max_epoch'. Did you mean"),
        ("--config=configs/digits.yaml --batch_sizes=16,many", "batch_size: expected int, got 'many'"),
        ("--config=configs/digits.yaml --vary='{data.scaling: [none, row]}'", "scaling: expected one of"),
        ("--config=configs/digits.yaml --vary='{data.skaling: [raw]}'", "unknown option of Digits 'skaling'."),
        ("--config=configs/digits.yaml --vary='{seed_everything: [1]}'", "seed_everything cannot be set or varied"),
        ("--config=configs/digits.yaml --norms=BatchNorm --model.norm=LayerNorm", "model.norm is given twice"),
        (
            "--config=configs/digits.yaml --norms=BatchNorm --model.init_args.norm=LayerNorm",
            "model.norm is given twice",
        ),
        (
            "--config=configs/digits.yaml --norms=LayerNorm,src.norms.families.LayerNorm",
            "'LayerNorm' and 'src.norms.families.LayerNorm' are the same to train.py: give different values",
        ),
        (
            "--config=configs/digits.yaml --trainer.callbacks+=ModelSummary --trainer.callbacks+=Timer",
            "--trainer.callbacks+ is given twice: give a list, --trainer.callbacks+='[FIRST, SECOND]'",
        ),
        (
            "--config=configs/digits.yaml --norm_statistics.every_n_step=3",
            "unknown option 'norm_statistics.every_n_step'",
        ),
        ("--config=configs/digits.yaml --norms=BatchNorm,BatchNorm", "model.norm has the value BatchNorm twice"),
        ("--config=configs/digits.yaml --norms=BatchNorm --baseline=LayerNorm", "baseline=LayerNorm: no axis has this"),
        ("--config=configs/digits.yaml --seeds=0", "seeds=0: expected a number above 0"),
        ("--study=nowhere.yaml", "nowhere.yaml"),
        ("--study=empty.yaml", "nothing to compare: give --config=configs/digits.yaml"),
    ],
)
def test_a_mistake_ends_the_comparison_before_anything_runs(
    arguments: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "empty.yaml").write_text("seeds: 2\n")
    shown = error_of(monkeypatch, capsys, tmp_path, f"{arguments} --dry_run")  # if a mistake is missed, no run starts
    assert message in shown
    assert shown.startswith("error: ")
    assert len(shown.splitlines()) == 1


def test_the_number_of_threads_is_a_number(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    shown = error_of(monkeypatch, capsys, tmp_path, "--config=configs/digits.yaml")
    assert shown == "error: OMP_NUM_THREADS=many: expected a number above 0"
    monkeypatch.setenv("OMP_NUM_THREADS", "4,2")
    assert compare_here(monkeypatch, tmp_path, "--config=configs/digits.yaml", "--dry_run") == 0
    assert "4 threads each" in capsys.readouterr().out


def test_null_is_a_norm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--config=configs/digits.yaml", "--norms=null", "--seeds=1", "--dry_run"]
    assert compare_here(monkeypatch, tmp_path, *flags, "--norm_statistics.every_n_steps=7") == 0
    assert capsys.readouterr().out.splitlines()[1] == "  null, seed 0: not started"


def test_an_interruption_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("src.compare.main.run_here", interrupt)
    assert compare_here(monkeypatch, tmp_path, "--config=configs/digits.yaml", "--seeds=2") == 130
    assert capsys.readouterr().err == (
        "\nStopped with 0 of 2 runs done. To go on: python compare.py --config=configs/digits.yaml --seeds=2\n"
    )


def test_two_comparisons_do_not_share_a_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with hold(tmp_path / "out"):
        shown = error_of(monkeypatch, capsys, tmp_path, "--config=configs/digits.yaml --output=out")
    assert shown == ("error: another comparison is running in out: wait until it has ended, or choose another --output")
    with hold(tmp_path / "out"):  # a comparison that has ended does not hold the folder
        pass


@pytest.mark.slow
def test_ctrl_c_ends_the_run(tmp_path: Path) -> None:
    flags = ["--norms=BatchNorm", "--seeds=2", "--output=out", "--trainer.max_epochs=500"]
    process = start(tmp_path, *TINY, *flags)
    run = tmp_path / "out/BatchNorm/seed_0"
    wait_until(lambda: training_process(run) is not None, process)
    pid = training_process(run)
    process.send_signal(signal.SIGINT)
    shown, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Stopped with 0 of 2 runs done" in shown
    assert pid
    assert not is_running(pid)
