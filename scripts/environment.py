"""Make an environment: `python scripts/environment.py KIND`.

    train     the packages that training imports, from locks/train.txt, in .venv
    dev       these and the packages for tests and linting, from locks/dev.txt, in .venv
    lowest    the packages for training and tests in their lowest allowed versions, in .venv-lowest
    newest    the packages for training and tests in their newest allowed versions, in .venv-newest

uv installs the packages: the uv on the PATH, or one that pip can install (locks/uv.txt has its version and hash).
Without uv, pip installs the locked kinds. An interrupted installation starts again. This file also runs on Pythons that
are too old for the project, so that it can print an error there.
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
"""uv's arguments for each kind; pip takes the same arguments for the locked kinds."""

INCLUDES = {"dev": ["train", "dev"]}
"""The kinds that an environment can be used as; an unlisted kind is used only as itself."""


def fail(message):
    """Print an error message, and exit with code 2."""
    print("error: " + message, file=sys.stderr)
    raise SystemExit(2)


def check_python(version):
    """Exit with an error on a Python that the project does not support."""
    if version < (3, 11):
        found = ".".join(map(str, version[:3]))
        fail(f"Python 3.11 or later is needed, and {sys.executable} is {found}: make PYTHON=python3.12")


def find_uv(python):
    """The path of uv on the PATH, or of the uv that pip installs into the environment; None if pip cannot."""
    if shutil.which("uv"):
        return shutil.which("uv")
    bring = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries=1"]
    done = subprocess.run([*bring, "--require-hashes", "-r", "locks/uv.txt"], cwd=str(ROOT), stderr=subprocess.DEVNULL)
    return str(python.parent / ("uv" + SUFFIX)) if done.returncode == 0 else None


def install(folder, kind):
    """Make an environment of a kind in a folder. A file there with the kind's name marks it as complete."""
    python = folder / BIN / ("python" + SUFFIX)
    complete = [name for name in KINDS if (folder / name).exists()]
    locked = kind in ("train", "dev")
    if complete and locked:
        for name in complete:
            (folder / name).unlink()
    elif subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)]).returncode:
        fail(f"no environment could be made in {folder.name}; the reason is above")
    uv = find_uv(python)
    if uv:
        command = [uv, "pip", "install", "--python", str(python), *KINDS[kind]]
    elif locked:
        command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", *KINDS[kind]]
    else:
        fail(f"only uv can find the {kind} versions, and pip could not install it: pip install uv")
    if subprocess.run(command, cwd=str(ROOT)).returncode:
        ways = "Without a network, run the command again where there is one."
        if locked:
            ways += (
                " If your index lacks a locked version, install the versions that it has in an environment of your "
                "own: pip install -r requirements.txt."
            )
        fail(f"{folder.name} is incomplete; the reason is above. {ways} The next call starts again.")
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
