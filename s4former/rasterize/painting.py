"""One photo's mask: what an annotation tool draws, as pixels, and things over each other in the ids of the classes.

The function of a shape takes the height and width of the image last, and returns the pixels that are covered, (h, w) bool, and
where they lie, a row and a column. It raises ValueError, or an error of Pillow's, if what it is given cannot be drawn.
"""

import base64
import binascii
import io
import zlib
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ..config import IGNORE_INDEX
from ..data.class_names import VOID
from ..data.images import read_header, turn_upright
from ..prepare.coco_masks import decode_rle, fill_polygon

Window = tuple[np.ndarray, int, int]  # (h, w) bool, row, column
Drawing = Callable[[int, int], Window]  # one of the functions below, of which all but the size of the image is given
LARGEST = 2**28  # bytes of a bitmap, unpacked
NO_LABEL = {  # kind of a thing that is no label -> what is said of it
    (BOX := "box alone"): "things known by a box alone, which is taken as no label",
    (CROWD := "crowd region"): "crowd regions, taken as no label (--crowds: as objects; some tools mark all run-length codes so)",
}
ROUND = np.stack([np.cos(angles := np.linspace(0, 2 * np.pi, 720, endpoint=False)), np.sin(angles)], 1)
SQUARE = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])


class Thing(NamedTuple):
    """One thing that somebody drew."""

    label: str
    kind: str  # what the tool calls such a shape, or a key of NO_LABEL
    drawing: Drawing | None  # None: a shape without an area, such as a point, or one that is not known here
    level: int = 0  # those of higher levels lie on top


class Photo(NamedTuple):
    """One image and what was drawn on it."""

    name: str  # what the file of annotations calls it
    id: str | None  # of `Images`; None if there is no such image where the annotations say
    namesake: str | None  # the only image with its file name anywhere
    size: tuple[int, int] | None  # (height, width) that the annotations are of; None if they do not say
    things: list[Thing]


class Drawn(NamedTuple):
    """The mask of one photo, None if there is none, and what to say about it."""

    mask: np.ndarray | None
    pixels: tuple[int, int, int] = (0, 0, 0)  # that nobody drew on, that lie in things, and in things of several classes
    notes: Sequence[tuple[str, str]] = ()  # what happened, to which file


def draw(photo: Photo, path: Path, ids: Mapping[str, int], options: Namespace) -> Drawn:
    """The mask of a photo, upright as it is: what is no label below, then by level, then in the order of the file."""
    header = read_header({"path": str(path), "bytes": None})
    size, notes = photo.size or header.size, []
    turned = size != header.size and header.turn >= 5 and size == header.size[::-1]
    if size != header.size and not turned:
        (height, width), (high, wide) = header.size, size
        reason = "images of another size than their annotations, left without a mask"
        return Drawn(None, notes=[(reason, f"{path} ({width}x{height}, annotated as {wide}x{high})")])
    notes += [(f"shapes that are not drawn, of the kind {thing.kind}", photo.name) for thing in photo.things if not thing.drawing]
    notes += [(NO_LABEL[thing.kind], photo.name) for thing in photo.things if thing.kind in NO_LABEL]
    windows = [(thing, thing.drawing(*size)) for thing in photo.things if thing.drawing]
    notes += [("objects without a pixel", photo.name) for _, (area, *_) in windows if not area.any()]
    if not any(area.any() and thing.kind not in NO_LABEL for thing, (area, *_) in windows) and not options.empty:
        reason = f"images without an object, left without a mask (--empty: all {name_rest(options.background)})"
        return Drawn(None, notes=[*notes, (reason, photo.name)])
    windows.sort(key=lambda each: (each[0].kind not in NO_LABEL, -each[1][0].sum() if options.smaller_on_top else each[0].level))
    drawn = paint(windows, size, ids, options.background)
    if turned:
        drawn = drawn._replace(mask=turn_upright(drawn.mask, header.turn))
        notes.append(("masks that were drawn on the pixels as stored, and are turned with their photo (EXIF)", photo.name))
    return drawn._replace(notes=notes)


def paint(windows: Sequence[tuple[Thing, Window]], size: tuple[int, int], ids: Mapping[str, int], background: str) -> Drawn:
    """Things over each other, the last on top."""
    mask = np.full(size, IGNORE_INDEX if plain(background) in VOID else 0, np.uint8)
    no_label, things, several = (np.zeros(size, bool) for _ in range(3))
    for thing, (area, row, column) in windows:
        # a name that is not among the ids is that of the background, spelt otherwise
        value = IGNORE_INDEX if thing.kind in NO_LABEL or plain(thing.label) in VOID else ids.get(thing.label, 0)
        place = slice(row, row + area.shape[0]), slice(column, column + area.shape[1])
        if thing.kind not in NO_LABEL:
            several[place] |= area & things[place] & (mask[place] != value)
        (no_label if thing.kind in NO_LABEL else things)[place] |= area
        mask[place][area] = value
    drawn = int(things.sum())
    return Drawn(mask, (int((~(things | no_label)).sum()), drawn, int(several.sum())))


def name_rest(background: str) -> str:
    """What pixels become that nobody drew on, in words."""
    return "no label" if plain(background) in VOID else f"the class {background}"


def plain(label: str) -> str:
    """A label as it is compared with words for background and void: `__ignore__` as "ignore"."""
    return label.strip().strip("_").lower()


# ---- shapes


def polygons(rings: Sequence[Any], height: int, width: int, *, holes: Sequence[Any] = (), shares: bool = False) -> Window:
    """The pixels whose centres lie in one of the rings and in no hole; each a list of x and y, pairs or in turn.

    shares: x and y are shares of the width and the height, else pixels.
    """
    scale = (width, height) if shares else (1, 1)
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


def turned(shape: np.ndarray, centre: Sequence[float], radii: Sequence[float], degrees: float, height: int, width: int) -> Window:
    """ROUND or SQUARE, so many pixels from its centre to its right and lower edge, turned clockwise."""
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return polygons([shape * radii @ [[cosine, sine], [-sine, cosine]] + centre], height, width)


def disc(centre: Sequence[float], rim: Sequence[float], height: int, width: int) -> Window:
    """The pixels whose centres lie in a circle around one point through another."""
    return turned(ROUND, centre, [np.hypot(rim[0] - centre[0], rim[1] - centre[1])] * 2, 0, height, width)


def box(first: Sequence[float], second: Sequence[float], height: int, width: int, *, shares: bool = False) -> Window:
    """The box between two opposite corners; shares: see `polygons`."""
    return polygons([[first, (second[0], first[1]), second, (first[0], second[1])]], height, width, shares=shares)


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
