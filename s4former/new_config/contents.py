"""What images and masks hold: sizes, ids and colours of every pair, counted before anything is decided from them."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from ..data.images import open_image, read_header
from ..data.lists import Sample
from ..data.masks import ID_MODES, check_sizes, packed_rgb, read_ids
from ..data.sources import PART_NAMES
from ..errors import DataError, plural
from .pairs import Photos

NAMED_ERRORS = 3  # files named one by one


@dataclass(frozen=True)
class Contents:
    """What one image and its mask hold."""

    size: tuple[int, int]  # height, width
    mode: str  # of the image, as Pillow calls it
    pixels: dict[int, int] = field(default_factory=dict)  # id -> count
    colours: dict[int, int] = field(default_factory=dict)  # 0xRRGGBB -> count, of a mask of colours without a palette


def read_contents(photos: Photos, palette: dict[int, int]) -> dict[str, Contents]:
    """What each image and its mask hold, by image path. Pairs that cannot be used are dropped, with remarks.

    Args:
        palette: 0xRRGGBB -> id.
    """

    def read(row: Sample) -> Contents | DataError:
        try:
            return contents_of(row, palette)
        except DataError as error:
            return error

    contents: dict[str, Contents] = {}
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for part, rows in photos.parts.items():
            results = {row.image: result for row, result in zip(rows, threads.map(read, rows))}
            errors = {image: str(error) for image, error in results.items() if isinstance(error, DataError)}
            messages = list(errors.values())
            if rows and len(errors) == len(results):
                raise DataError(f"none of {plural(len(rows), 'image')} can be used: {messages[0]}")
            contents |= {image: result for image, result in results.items() if image not in errors}
            photos.drop(errors)
            photos.remarks += [f"left out: {message}" for message in messages[:NAMED_ERRORS]]
            if (more := len(messages) - NAMED_ERRORS) > 0:
                which = f"{more} more of the {len(rows)} {PART_NAMES[part]} images"
                photos.remarks.append(f"left out as well, for such reasons: {which}")
    return contents


def contents_of(row: Sample, palette: dict[int, int]) -> Contents:
    """What a pair holds; an image with a mask is decoded, of one without only the header is read."""
    image, mask = ({"path": path, "bytes": None} for path in (row.image, row.mask))
    size, mode = read_header(image)
    if row.mask is None:
        return Contents(size, mode)
    with open_image(image, "image") as picture:
        mode = picture.mode
    with open_image(mask, "mask") as picture:
        unnamed = picture.mode not in ID_MODES and not palette
        values = packed_rgb(picture) if unnamed else read_ids(mask, palette)
    check_sizes({"image": image, "mask": mask}, size, values.shape)
    counts = dict(zip(*(array.tolist() for array in np.unique(values, return_counts=True))))
    return Contents(size, mode, **{"colours" if unnamed else "pixels": counts})


def levels_of(paths: Sequence[str], most: int = 20) -> list[float]:
    """data.levels for images of more than 8 bits: what one in a thousand pixels of a sample is below, and above."""
    sample = [paths[index] for index in np.unique(np.linspace(0, len(paths) - 1, min(most, len(paths))).astype(int))]
    images = (open_image({"path": path, "bytes": None}, "image") for path in sample)
    ranges = [np.percentile(np.asarray(image), (0.1, 99.9)) for image in images]
    low, high = np.min(ranges, axis=0)[0], np.max(ranges, axis=0)[1]
    return [float(f"{low:.6g}"), float(f"{max(high, low + 1e-6):.6g}")]
