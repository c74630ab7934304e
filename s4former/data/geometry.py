"""Geometry on image and mask: which part of a photo a training view shows.

Everything random is drawn first, into a `Geometry`, and then used by functions that are deterministic. So the weak and
the strong views share one, and a crop can be replayed from its generator alone. The order is that of the released code:
resize by a random ratio, random crop, flip, colour (colour.py), padding at the bottom and the right.
"""

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from ..config import IGNORE_INDEX, Data

CROP_TRIES = 10  # boxes that are looked at before one is taken as it comes


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Which pixels of an image a view shows. Sizes are (height, width) in pixels."""

    source: tuple[int, int]  # the image as it is
    resized: tuple[int, int]  # the image after the random ratio
    top: int  # of the box, in the resized image
    left: int
    box: tuple[int, int]  # what the resized image has to give, at most the crop
    crop: tuple[int, int]  # with padding
    flip: bool


def crop_pair(
    image: Image.Image, mask: np.ndarray | None, geometry: Geometry
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """The views of an RGB image, (h, w, 3) uint8, 0 on padding, and of its (H, W) uint8 mask, (h, w) uint8, 255 on padding, or None;
    and which pixels are no padding, (h, w) bool."""
    valid = np.zeros(geometry.crop, bool)
    valid[: geometry.box[0], : geometry.box[1]] = True
    view = None if mask is None else pad(sample_nearest(mask, geometry), geometry, IGNORE_INDEX)
    return pad(sample_bilinear(image, geometry), geometry, 0), view, valid


def draw_geometry(
    rng: np.random.Generator, height: int, width: int, data: Data, mask: np.ndarray | None = None
) -> Geometry:
    """Draws ratio, box and flip (section "Implementation details" of the paper; numbers of the released code).

    With a mask, up to `CROP_TRIES` boxes are tried until one holds more than one class and the largest has less than
    `data.max_class_share` of the pixels that are not ignored; the next one is then taken as it comes. The released
    code tries with the ground truth of *unlabelled* images as well; here those get one plain random box.
    """
    resized = resized_size(height, width, rng.uniform(*data.ratio), data.resize)
    box = (min(data.crop[0], resized[0]), min(data.crop[1], resized[1]))
    free = (resized[0] - box[0] + 1, resized[1] - box[1] + 1)

    def draw() -> Geometry:
        top, left = int(rng.integers(free[0])), int(rng.integers(free[1]))
        return Geometry(source=(height, width), resized=resized, top=top, left=left, box=box, crop=data.crop, flip=False)

    geometry = draw()
    if mask is not None and data.max_class_share < 1 and free != (1, 1):
        for _ in range(CROP_TRIES):
            if shows_several_classes(sample_nearest(mask, geometry), data.max_class_share):
                break
            geometry = draw()
    return replace(geometry, flip=bool(rng.random() < data.flip))


def resized_size(height: int, width: int, ratio: float, limits: tuple[int, int]) -> tuple[int, int]:
    """(height, width) fitted into `limits` (longest, shortest side) times `ratio`, its proportions kept."""
    longest, shortest = int(limits[0] * ratio), int(limits[1] * ratio)
    scale = min(longest / max(height, width), shortest / min(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def shows_several_classes(mask: np.ndarray, share: float) -> bool:
    """Whether a mask has more than one class and the largest holds less than `share` of the labelled pixels."""
    count = np.bincount(mask.ravel(), minlength=IGNORE_INDEX + 1)[:IGNORE_INDEX]
    return bool((count > 0).sum() > 1 and count.max() < share * count.sum())


def sample_bilinear(image: Image.Image, geometry: Geometry) -> np.ndarray:
    """The box of an RGB image, neither flipped nor padded: (height, width, 3) uint8.

    Bilinear as Pillow has it, that is with antialiasing when the image shrinks (OpenCV, in the released code, has
    none). Only the box is computed: Pillow's `box` names the part of the source that becomes the result, and still
    reads the neighbours outside of it, so the pixels are those of resizing everything to within a grey level (two in
    a few pixels of pure noise).
    """
    (height, width), (down, across) = geometry.box, (s / r for s, r in zip(geometry.source, geometry.resized))
    box = (
        geometry.left * across,
        geometry.top * down,
        min((geometry.left + width) * across, geometry.source[1]),  # rounding must not reach beyond the image
        min((geometry.top + height) * down, geometry.source[0]),
    )
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR, box=box))


def sample_nearest(mask: np.ndarray, geometry: Geometry) -> np.ndarray:
    """The box of a mask, neither flipped nor padded: the source pixel under each pixel's centre, as in Pillow."""
    rows, columns = (
        ((2 * np.arange(start, start + count) + 1) * source) // (2 * resized)
        for start, count, source, resized in zip(
            (geometry.top, geometry.left), geometry.box, geometry.source, geometry.resized
        )
    )
    return mask[rows][:, columns]  # seven times as fast as both at once


def pad(part: np.ndarray, geometry: Geometry, value: int) -> np.ndarray:
    """The box (height, width, ...), flipped if the geometry says so, and padded to the crop."""
    view = np.full((*geometry.crop, *part.shape[2:]), value, part.dtype)
    view[: geometry.box[0], : geometry.box[1]] = part[:, ::-1] if geometry.flip else part
    return view
