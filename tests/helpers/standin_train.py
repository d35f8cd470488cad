"""A script that imports little and stands in for train.py, and jobs that run it."""

from pathlib import Path
from typing import Any

import pytest

from src.compare.run import Job

STAND_IN = """
import os, sys, time, zipfile
from pathlib import Path
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

options = dict(argument[2:].partition("=")[::2] for argument in sys.argv[2:])
folder = Path(options["trainer.default_root_dir"], options["experiment"])
versions = sorted(folder.glob("version_*"))
resumed = "ckpt_path" in options
version = versions[-1] if resumed else folder / f"version_{len(versions)}"
(version / "checkpoints").mkdir(parents=True, exist_ok=True)
if options.get("hang"):
    if options["hang"] == "after a checkpoint":
        zipfile.ZipFile(version / "checkpoints/last.ckpt", "w").close()
    if options["hang"] == "in a checkpoint":
        (version / "checkpoints/last.ckpt").write_bytes(b"PK")
    (folder / "pid").write_text(str(os.getpid()))
    time.sleep(600)
if options.get("raise"):
    print("Epoch 1", flush=True)
    raise ArithmeticError(options["raise"])
if options.get("mistake"):
    print("error: " + options["mistake"], file=sys.stderr)
    print("a line more", file=sys.stderr)
    sys.exit(2)
if options.get("exit"):
    print("the last line")
    sys.exit(int(options["exit"]))
if options.get("kill"):
    os.kill(os.getpid(), 9)
writer = EventFileWriter(str(version))
scalars = {"train/loss": float(options.get("loss", 1)), "val/accuracy": 0.5, "epoch": 2}
if "untested" not in options:
    scalars["test/accuracy"] = 0.25 if resumed else 0.75
for tag, value in scalars.items():
    summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
    writer.add_event(Event(wall_time=time.time(), step=1, summary=summary))
writer.close()
"""


def use_stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have compare.py run the script in place of train.py."""
    (folder / "train.py").write_text(STAND_IN)
    monkeypatch.setattr("src.compare.run.REPOSITORY", folder)


def make_job(folder: Path, *flags: str, seed: int = 0, **options: Any) -> Job:
    """A run of the script with these flags, which compare.py takes for a run of train.py with these options."""
    return Job("BatchNorm", seed, folder / f"BatchNorm/seed_{seed}", flags, options, threads=1, working_folder=folder)
