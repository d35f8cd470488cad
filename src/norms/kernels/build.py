"""Compile the library of CPU kernels once for this processor, and keep it in the user's cache."""

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch  # noqa: F401 (loads OpenMP, so that the library shares torch's threads)

SOURCE = Path(__file__).with_name("normalize.cpp")
# Not -ffast-math: it assumes that there are no NaNs.
FLAGS = (
    *("-O3", "-march=native", "-std=c++17", "-fopenmp", "-shared", "-fPIC"),
    *("-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-Wno-psabi"),
    *(["-mprefer-vector-width=512"] if platform.machine() in ("x86_64", "AMD64") else []),
)

log = logging.getLogger(__name__)


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lightning-norms"


def cpu_features() -> str:
    """The processor's model and instruction sets, on which `-march=native` depends."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))


def compiler() -> str | None:
    names = (os.environ.get("CXX", ""), "c++", "g++", "clang++")
    return next((path for path in map(shutil.which, filter(None, names)) if path), None)


def build() -> Path:
    """The path of the library; compile it if the cache has none for this source, these flags and this processor.

    Raises:
        OSError: there is no compiler, the cache cannot be written, or the compiler fails.
    """
    program = compiler()
    if program is None:
        raise OSError("no C++ compiler was found")
    depends_on = "\n".join((SOURCE.read_text(), *FLAGS, program, cpu_features()))
    library = cache_folder() / f"normalize-{hashlib.sha256(depends_on.encode()).hexdigest()[:16]}.so"
    if library.exists():
        return library
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        made = Path(folder) / library.name
        done = subprocess.run([program, *FLAGS, "-o", str(made), str(SOURCE)], capture_output=True, text=True)
        if done.returncode:
            raise OSError(f"{program} failed: {done.stderr.strip()[-500:]}")
        made.replace(library)  # if several processes build at once, the last library stays; all are the same
    return library


@cache
def load() -> ctypes.CDLL | None:
    """The library, or None if it cannot be built: a log line says why, and the formula is used."""
    try:
        library = ctypes.CDLL(str(build()))
    except OSError as error:
        log.warning("Norms run on torch's operations, slower than they could: %s", error)
        return None
    pointer, size, real, flag = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double, ctypes.c_int
    library.follow.restype = None
    library.follow.argtypes = [pointer] * 4 + [size, real, real]
    for dtype in ("float32", "bfloat16"):
        for name, num_sizes in {"channels": 3, "columns": 2, "groups": 4, "runs": 4}.items():
            forward, backward = (getattr(library, f"{name}_{way}_{dtype}") for way in ("forward", "backward"))
            tail = [size] * num_sizes + [real, flag, size]
            forward.restype = backward.restype = None
            forward.argtypes, backward.argtypes = [pointer] * 6 + tail, [pointer] * 8 + tail
    return library
