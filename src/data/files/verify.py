"""Verification by hash: a file is read only if it is, byte for byte, the original one."""

import hashlib
from pathlib import Path

from src.data.errors import DataError

MEND = "Delete the file and run again to fetch it anew, or put the original file in its place."


def digest(content: bytes, algorithm: str) -> str:
    """Hex digest of `content` by "md5" or "sha256", to identify it and not for security."""
    return hashlib.new(algorithm, content, usedforsecurity=False).hexdigest()


def require_digest(content: bytes, path: Path, algorithm: str, expected: str) -> None:
    """Raise a DataError that names `path`, the file of `content`, unless the digest of `content` is `expected`."""
    found = digest(content, algorithm)
    if found != expected:
        raise DataError(
            f"{path} is damaged or was changed: the {algorithm} of its content is {found}, expected {expected}. {MEND}"
        )


def read_verified(path: Path, algorithm: str, expected: str) -> bytes:
    """The bytes of `path`.

    Raises:
        DataError: the digest is not `expected`.
    """
    content = path.read_bytes()
    require_digest(content, path, algorithm, expected)
    return content
