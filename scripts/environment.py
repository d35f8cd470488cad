"""Make the environment: `python scripts/environment.py train`, or `dev`, `lowest`, `newest`.

    train     what training imports, from locks/train.txt, into .venv
    dev       what tests and linting need, too, from locks/dev.txt, into .venv
    lowest    the lowest versions that the ranges admit, to test with, into .venv-lowest
    newest    the newest ones, into .venv-newest

uv installs where there is one, or where pip can bring it (its version and hash are in locks/uv.txt), and otherwise pip.
An installation that was interrupted is begun anew. Runs on Pythons that are too old for the rest, to say so.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN, SUFFIX = ("Scripts", ".exe") if os.name == "nt" else ("bin", "")
REQUIREMENTS = ["-r", "requirements.txt", "--group", "pyproject.toml:test"]
KINDS = {
    "train": ["--require-hashes", "-r", "locks/train.txt"],
    "dev": ["--require-hashes", "-r", "locks/dev.txt"],
    "lowest": ["--resolution=lowest-direct", *REQUIREMENTS],
    "newest": ["--upgrade", *REQUIREMENTS],
}
"""What uv installs for each kind; pip knows the same words for what is locked."""

INCLUDES = {"dev": ["train", "dev"]}
"""The kinds that an environment of a kind serves for."""


def fail(message):
    """End the program with one message and exit code 2."""
    print("error: " + message, file=sys.stderr)
    raise SystemExit(2)


def check_python(version):
    """End the program on a Python that the project does not support."""
    if version < (3, 11):
        found = ".".join(map(str, version[:3]))
        fail(f"Python 3.11 or later is needed, and {sys.executable} is {found}: make PYTHON=python3.12")


def find_uv(python):
    """The path of uv: one on the PATH, or one that pip brings into the environment; None where pip has none."""
    if shutil.which("uv"):
        return shutil.which("uv")
    bring = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries=1"]
    done = subprocess.run([*bring, "--require-hashes", "-r", "locks/uv.txt"], cwd=str(ROOT), stderr=subprocess.DEVNULL)
    return str(python.parent / ("uv" + SUFFIX)) if done.returncode == 0 else None


def install(folder, kind):
    """Make the environment in a folder; a file of the kind's name there says that it is whole."""
    python = folder / BIN / ("python" + SUFFIX)
    whole = [name for name in KINDS if (folder / name).exists()]
    locked = kind in ("train", "dev")
    if whole and locked:
        for name in whole:
            (folder / name).unlink()
    elif subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)]).returncode:
        fail(f"no environment could be made in {folder.name}; the reason is above")
    uv = find_uv(python)
    if uv:
        command = [uv, "pip", "install", "--python", str(python), *KINDS[kind]]
    elif locked:
        command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", *KINDS[kind]]
    else:
        fail(f"the {kind} versions are found by uv, which pip could not bring: pip install uv")
    if subprocess.run(command, cwd=str(ROOT)).returncode:
        ways = "Without a network, go on where there is one."
        if locked:
            ways += (
                " Where an index lacks a locked version, install what it has: pip install -r requirements.txt, in an "
                "environment of your own."
            )
        fail(f"{folder.name} is not whole; the reason is above. {ways} The next call begins anew.")
    for name in INCLUDES.get(kind, [kind]):
        (folder / name).touch()


def main():
    check_python(sys.version_info)
    kind = " ".join(sys.argv[1:])
    if kind not in KINDS:
        fail("expected one of {}, got '{}'".format(", ".join(KINDS), kind))
    install(ROOT / (".venv" if kind in ("train", "dev") else ".venv-" + kind), kind)


if __name__ == "__main__":
    main()
