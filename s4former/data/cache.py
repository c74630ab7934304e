"""Images on their way into training: decoded small where that is enough, or kept decoded.

Decoding costs a loader little for pictures of VOC's size (4 of 35 ms a crop; geometry 10, colours 21) and most for photos
of 12 megapixels (323 of 430 ms). With `data.draft` a JPEG much larger than its crops is decoded at a half, a quarter or an
eighth, straight from its frequencies (unlabelled images only; 103 ms, and the crop takes 36 instead of 84). With
`data.cache` every training image and mask is decoded once in the life of a folder and then read as it was, to the bit
(140 ms; of VOC's size 0.7); a folder in /dev/shm keeps them in memory. Any number of workers and runs may share the folder.
"""

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Callable

import numpy as np
from PIL import Image

from ..config import Data
from ..errors import DataError
from .images import header_size, is_scene, read_image
from .masks import check_sizes, read_mask, read_pair


class CacheError(DataError):
    """The cache cannot be written: no fault of the image, so no other image will do instead."""


def read_unlabeled_image(record: dict[str, Any], data: Data) -> Image.Image:
    """The picture of an unlabelled row as RGB.

    Args:
        record: {"path", "bytes"}, as `datasets.Image(decode=False)` gives it.

    Raises:
        DataError: what `read_image` says. CacheError: the cache cannot be written.
    """
    if is_scene(record):
        return read_image(record, data.levels)
    reduce = max_scale(*header_size(record), data) if data.draft else 1.0
    return cached_image(record, data, reduce)


def read_labeled_pair(row: dict[str, Any], data: Data, num_classes: int) -> tuple[Image.Image, np.ndarray]:
    """What `read_pair` gives of a labelled row, both parts of it from the cache if there is one."""
    if not data.cache or row["mask"] is None or is_scene(row["image"]):
        return read_pair(row, data, num_classes)
    image = cached_image(row["image"], data, 1.0)
    how = ("mask", data.source, data.palette, data.id_map, data.ignore_index, num_classes)
    mask = cached(row["mask"], data, lambda: read_mask(row["mask"], data, num_classes), how)
    check_sizes(row, (image.height, image.width), mask.shape)
    return image, mask


def cached_image(record: dict[str, Any], data: Data, reduce: float) -> Image.Image:
    if not data.cache:
        return read_image(record, data.levels, reduce=reduce)
    how = (data.levels, reduce)
    return Image.fromarray(cached(record, data, lambda: np.asarray(read_image(record, data.levels, reduce=reduce)), how))


def cached(record: dict[str, Any], data: Data, read: Callable[[], np.ndarray], how: tuple[Any, ...]) -> np.ndarray:
    """What `read` gives, kept in `data.cache` for the next time; `how` is all that it depends on besides the file."""
    path = Path(data.cache) / f"{cache_key(record, *how)}.npy"
    try:
        return np.load(path)
    except (OSError, ValueError, EOFError):  # not there yet, or not whole
        pixels = read()
    keep(pixels, path)
    return pixels


def max_scale(height: int, width: int, data: Data) -> float:
    """The share of its size at which an image is at most used, before the crop; see `augment.resized_size`."""
    fits = min(data.resize[0] / max(height, width), data.resize[1] / min(height, width))
    return min(1.0, fits * data.ratio[1])


def cache_key(record: dict[str, Any], *how: Any) -> str:
    """A name for what is decoded, which changes with the file, and with how it is decoded."""
    if record["bytes"] is not None:
        content = record["bytes"]
    else:
        try:
            facts = os.stat(record["path"])
        except OSError as error:
            raise DataError(f"image {record['path']} cannot be read: {error.strerror}") from None
        content = f"{Path(record['path']).resolve()}:{facts.st_size}:{facts.st_mtime_ns}".encode()
    return hashlib.sha256(content + repr(how).encode()).hexdigest()[:32]


def keep(pixels: np.ndarray, path: Path) -> None:
    """Written beside and renamed: whoever reads at the same time finds it whole or not at all."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            np.save(file, pixels)
        beside.replace(path)
    except OSError as error:
        with suppress(OSError):
            beside.unlink()
        raise CacheError(
            f"data.cache = {str(path.parent)!r} cannot be written ({error.strerror}); give a folder with"
            " room, 4 bytes for every pixel of the training images, or an empty data.cache"
        ) from None
