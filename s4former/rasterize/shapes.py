"""What an annotation tool draws, as pixels: polygons with holes, discs, bitmaps and run-length codes.

Every function takes the height and width of the image last, and returns the pixels that are covered, (h, w) bool, and where they
lie, a row and a column. It raises ValueError, or an error of Pillow's, if what it is given cannot be drawn.
"""

import base64
import binascii
import io
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ..prepare.coco_masks import decode_rle, fill_polygon

Window = tuple[np.ndarray, int, int]  # (h, w) bool, row, column
Drawing = Callable[[int, int], Window]  # one of the functions below, of which all but the size of the image is given
LARGEST = 2**28  # bytes of a bitmap, unpacked


class Thing(NamedTuple):
    """One thing that somebody drew."""

    label: str
    kind: str  # what the tool calls such a shape
    drawing: Drawing | None  # None: a shape without an area, such as a point, or one that is not known here
    level: int = 0  # those of higher levels lie on top
    crowd: bool = False  # a region with several things of a kind, which is no label


def polygons(rings: Sequence[Any], height: int, width: int, *, holes: Sequence[Any] = (), scale: tuple[float, float] = (1, 1)) -> Window:
    """The pixels whose centres lie in one of the rings and in no hole; each a list of x and y, pairs or in turn."""
    corners = [np.asarray(ring, float).reshape(-1, 2) * scale for ring in (*rings, *holes)]
    every = np.concatenate([np.zeros((0, 2)), *corners[: len(rings)]])
    if not np.isfinite(np.concatenate([every, *corners])).all():
        raise ValueError("a corner is no finite number")
    if not len(every):
        return np.zeros((0, 0), bool), 0, 0
    edges = every.min(axis=0), np.ceil(every.max(axis=0))
    (left, top), (right, bottom) = (edge.clip(0, (width, height)).astype(int) for edge in edges)
    area = np.zeros((bottom - top, right - left), np.uint8)
    for place, ring in enumerate(corners):
        if len(ring) > 2:
            fill_polygon(area, ring - (left, top), place < len(rings))
    return area.astype(bool), int(top), int(left)


def disc(centre: Sequence[float], rim: Sequence[float], height: int, width: int) -> Window:
    """The pixels whose centres lie in a circle around one point through another."""
    angles = np.linspace(0, 2 * np.pi, 720, endpoint=False)
    radius = np.hypot(rim[0] - centre[0], rim[1] - centre[1])
    return polygons([np.stack([np.cos(angles), np.sin(angles)], 1) * radius + np.asarray(centre, float)], height, width)


def box(first: Sequence[float], second: Sequence[float], height: int, width: int) -> Window:
    """The box between two opposite corners."""
    return polygons([[first, (second[0], first[1]), second, (first[0], second[1])]], height, width)


def bitmap(text: str, left: float, top: float, height: int, width: int) -> Window:
    """A PNG in base64, packed by zlib or not, whose upper left pixel lies at a place."""
    try:
        content = base64.b64decode(text)
        if not content.startswith(b"\x89PNG"):
            content = zlib.decompressobj().decompress(content, LARGEST)
    except (binascii.Error, zlib.error) as error:
        raise ValueError(f"a bitmap is neither a PNG in base64 nor one packed by zlib: {error}") from None
    with Image.open(io.BytesIO(content)) as picture:
        alpha = picture.convert("RGBA").getchannel("A") if picture.has_transparency_data else None
        return clip(np.asarray(alpha or picture.convert("L")) > 0, round(left), round(top), height, width)


def runs(counts: Sequence[int], left: int, top: int, size: tuple[int, int], height: int, width: int) -> Window:
    """A box of (height, width) at a place, row by row: so many pixels beside the thing, then so many of it, and so on."""
    if sum(counts) != size[0] * size[1] or min(counts) < 0:
        raise ValueError(f"run lengths of {sum(counts)} pixels for a box of {size[1]}x{size[0]}")
    area = np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(size)
    return clip(area, left, top, height, width)


def coco_runs(code: dict[str, Any], height: int, width: int) -> Window:
    """A run-length code of COCO, of the whole image."""
    if tuple(code["size"]) != (height, width):
        raise ValueError(f"a run-length code is of {code['size'][1]}x{code['size'][0]} pixels, its image of {width}x{height}")
    return decode_rle(code), 0, 0


def clip(area: np.ndarray, left: int, top: int, height: int, width: int) -> Window:
    """The part of (h, w) pixels at a place that lies in an image."""
    area = area[max(-top, 0) : max(height - top, 0), max(-left, 0) : max(width - left, 0)]
    return area, max(top, 0), max(left, 0)
