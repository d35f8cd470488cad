"""The pixel cache: images are decoded once, into one file that later runs map into memory."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from src.data.errors import DataError
from src.data.files.atomic_write import publish, scratch_folder
from src.data.files.folder_listing import Listing


def decode(path: Path, image_size: int) -> np.ndarray:
    """Decode an image to RGB bytes, with its shorter side resized to S and its center cropped: (3, S, S).

    Raises:
        DataError: the file cannot be read as an image.
    """
    try:
        with Image.open(path) as file:
            upright = ImageOps.exif_transpose(file)
            # Pillow warns of a palette with transparency unless it is converted to RGBA first.
            if upright.mode == "P":
                upright = upright.convert("RGBA")
            fitted = ImageOps.fit(upright.convert("RGB"), (image_size, image_size), Image.Resampling.BILINEAR)
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path} cannot be read as an image ({error}). Replace the file or remove it.") from error
    return np.asarray(fitted).transpose(2, 0, 1)


def cache_key(listing: Listing, image_size: int) -> str:
    """A hash that changes when any file's name, size or time of change does."""
    identity = hashlib.sha256(f"{image_size}\n".encode())
    for path in listing.files:
        stat = path.stat()
        name = path.relative_to(listing.folder).as_posix()
        identity.update(f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return identity.hexdigest()[:16]


def cached_pixels(listing: Listing, image_size: int, cache: Path) -> np.ndarray:
    """The pixels of a listing's images, memory-mapped: (N, 3, S, S) uint8. Decodes them unless they are in `cache`."""
    destination = cache / f"images-{cache_key(listing, image_size)}.npy"
    if not destination.exists():
        with scratch_folder(cache) as scratch:
            unfinished = scratch / destination.name
            shape = (len(listing.files), 3, image_size, image_size)
            pixels = np.lib.format.open_memmap(unfinished, mode="w+", dtype=np.uint8, shape=shape)
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                decoded = pool.map(lambda path: decode(path, image_size), listing.files)
                for index, image in enumerate(decoded):
                    pixels[index] = image
            pixels.flush()
            publish(unfinished, destination)
    return np.load(destination, mmap_mode="r")
