"""One photo's mask: its things over each other, in the ids of the classes."""

from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..config import IGNORE_INDEX
from ..data.class_names import VOID
from ..data.images import read_header, turn_upright
from .readers import Photo
from .shapes import Thing, Window

CROWDS = "crowd regions, taken as no label (--crowds: as objects; some tools mark all run-length codes so)"


class Drawn(NamedTuple):
    """The mask of one photo, None if there is none, and what to say about it."""

    mask: np.ndarray | None
    pixels: tuple[int, int, int] = (0, 0, 0)  # that nobody drew on, that lie in things, and in things of several classes
    notes: Sequence[tuple[str, str]] = ()  # what happened, to which file


def draw(photo: Photo, path: Path, ids: Mapping[str, int], options: Namespace) -> Drawn:
    """The mask of a photo, upright as it is: crowd regions below, then by level, then in the order of the file."""
    header = read_header({"path": str(path), "bytes": None})
    size, notes = photo.size or header.size, []
    turned = size != header.size and header.turn >= 5 and size == header.size[::-1]
    if size != header.size and not turned:
        (height, width), (high, wide) = header.size, size
        reason = "images of another size than their annotations, left without a mask"
        return Drawn(None, notes=[(reason, f"{path} ({width}x{height}, annotated as {wide}x{high})")])
    things = [thing._replace(crowd=thing.crowd and not options.crowds) for thing in photo.things]
    notes += [(f"shapes without an area, of the kind {thing.kind}", photo.name) for thing in things if not thing.drawing]
    notes += [(CROWDS, photo.name) for thing in things if thing.crowd]
    windows = [(thing, thing.drawing(*size)) for thing in things if thing.drawing]
    notes += [("objects without a pixel", photo.name) for _, (area, *_) in windows if not area.any()]
    if not any(area.any() for _, (area, *_) in windows) and not options.empty:
        reason = f"images without an object, left without a mask (--empty: all {name_rest(options.background)})"
        return Drawn(None, notes=[*notes, (reason, photo.name)])
    windows.sort(key=lambda each: (not each[0].crowd, -each[1][0].sum() if options.smaller_on_top else each[0].level))
    drawn = paint(windows, size, ids, options.background)
    if turned:
        drawn = drawn._replace(mask=turn_upright(drawn.mask, header.turn))
        notes.append(("masks that were drawn on the pixels as stored, and are turned with their photo (EXIF)", photo.name))
    return drawn._replace(notes=notes)


def paint(windows: Sequence[tuple[Thing, Window]], size: tuple[int, int], ids: Mapping[str, int], background: str) -> Drawn:
    """Things over each other, the last on top."""
    mask = np.full(size, IGNORE_INDEX if plain(background) in VOID else 0, np.uint8)
    crowds, things, several = (np.zeros(size, bool) for _ in range(3))
    for thing, (area, row, column) in windows:
        # a name that is not among the ids is that of the background, spelt otherwise
        value = IGNORE_INDEX if thing.crowd or plain(thing.label) in VOID else ids.get(thing.label, 0)
        place = slice(row, row + area.shape[0]), slice(column, column + area.shape[1])
        if not thing.crowd:
            several[place] |= area & things[place] & (mask[place] != value)
        (crowds if thing.crowd else things)[place] |= area
        mask[place][area] = value
    drawn = int(things.sum())
    return Drawn(mask, (int((~(things | crowds)).sum()), drawn, int(several.sum())))


def name_rest(background: str) -> str:
    """What pixels become that nobody drew on, in words."""
    return "no label" if plain(background) in VOID else f"the class {background}"


def plain(label: str) -> str:
    """A label as it is compared with words for background and void: `__ignore__` as "ignore"."""
    return label.strip().strip("_").lower()
