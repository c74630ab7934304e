"""Images and masks for training: decoded small where that is enough (`data.draft`), or kept decoded (`data.cache`).

Decoding costs a loader little for images of VOC's size (4 of 35 ms a crop; geometry 10, colours 21) and most for photos of
12 megapixels: 323 of 430 ms, 103 with `data.draft`, 140 from the cache, which returns what was decoded to the bit. Any
number of workers and runs may share its folder; one in /dev/shm keeps it in memory.
"""

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Callable

import numpy as np
from PIL import Image

from ..config import Data
from ..errors import DataError, WriteError
from ..files import writing_file
from .images import EncodedImage, is_scene, read_header, read_image
from .masks import check_sizes, read_upright_mask


class CacheError(DataError):
    """The cache cannot be written: no fault of the image, so no other image will do instead."""


def read_unlabeled_image(file: EncodedImage, data: Data) -> Image.Image:
    """The image of an unlabelled row as RGB; errors of `read_image`, or a `CacheError`."""
    draft = data.draft and not is_scene(file)
    return read_cached_image(file, data, max_scale(*read_header(file).size, data) if draft else 1.0)


def read_labeled_pair(row: dict[str, Any], data: Data, num_classes: int) -> tuple[Image.Image, np.ndarray]:
    """What `read_pair` gives of a labelled row, both parts of it from the cache if there is one."""
    image = read_cached_image(row["image"], data, 1.0)
    turn = read_header(row["image"]).turn if data.cache and data.exif == "raw" else 1  # the mask is turned as its image
    settings = ("mask", data.source, data.palette, data.id_map, data.ignore_index, data.exif, turn, num_classes)
    mask = cached(row["mask"], data, settings, lambda: read_upright_mask(row, data, num_classes))
    check_sizes(row, (image.height, image.width), mask.shape)
    return image, mask


def max_scale(height: int, width: int, data: Data) -> float:
    """The share of its size at which an image is at most used, before the crop; see `geometry.resized_size`."""
    fits = min(data.resize[0] / max(height, width), data.resize[1] / min(height, width))
    return min(1.0, fits * data.ratio[1])


def read_cached_image(file: EncodedImage, data: Data, reduce: float) -> Image.Image:
    if not data.cache or is_scene(file):
        return read_image(file, data.levels, reduce=reduce)
    pixels = cached(file, data, (data.levels, reduce), lambda: np.asarray(read_image(file, data.levels, reduce=reduce)))
    return Image.fromarray(pixels)


def cached(file: EncodedImage | None, data: Data, settings: tuple[Any, ...], read: Callable[[], np.ndarray]) -> np.ndarray:
    """What `read` returns, kept in `data.cache` if it is of a file; `settings` is all that it depends on besides the file."""
    if not data.cache or file is None or is_scene(file):
        return read()
    path = Path(data.cache) / f"{cache_key(file, settings)}.npy"
    with suppress(OSError, ValueError, EOFError):  # not there yet, or not whole
        return np.load(path)
    pixels = read()
    write_cache(pixels, path)
    return pixels


def cache_key(file: EncodedImage, settings: tuple[Any, ...]) -> str:
    """A name that changes with the file, and with the settings it is decoded with."""
    content = file["bytes"]
    if content is None:
        try:
            status = os.stat(file["path"])
        except OSError as error:
            raise DataError(f"image {file['path']} cannot be read: {error.strerror}") from None
        content = f"{Path(file['path']).resolve()}:{status.st_size}:{status.st_mtime_ns}".encode()
    return hashlib.sha256(content + repr(settings).encode()).hexdigest()[:32]


def write_cache(pixels: np.ndarray, path: Path) -> None:
    """Writes beside the path and renames, so that others who read it find it whole or not at all."""
    try:
        with writing_file(path) as beside:
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(beside, pixels)
    except WriteError as error:
        raise CacheError(
            f"data.cache = {str(path.parent)!r} cannot be written ({error.__cause__.strerror}); give a folder with"
            " room, 4 bytes for every pixel of the training images, or an empty data.cache"
        ) from None
