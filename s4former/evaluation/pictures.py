"""Pictures of class maps: palette PNGs, overlays, and contact sheets.

Everything is numpy in, Pillow out: images (H, W, 3) uint8, masks (H, W) of class ids with 255 = no label. Files that other
tools read have the palette of PASCAL VOC; pictures to look at have colours of even brightness and chroma. Both have those of
`data.colours` or `data.palette` where there are such.
"""

import json
import math
from itertools import zip_longest
from pathlib import Path
from typing import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps
from PIL.PngImagePlugin import PngInfo

from ..config import IGNORE_INDEX, Data
from ..data.masks import PREDICTED, STATEMENT, palette_colours

PAPER, TEXT, FAINT, EMPTY = (252, 251, 248), (38, 38, 42), (128, 128, 134), (236, 235, 231)
BACKGROUND, UNLABELED = (231, 229, 223), (255, 255, 255)  # of masks
PANEL = (300, 260)  # largest width and height of a picture on a contact sheet, pixels
GAP, MARGIN, LINE = 10, 32, 26  # between panels, around the sheet, height of a line of text


def palette(num_classes: int) -> np.ndarray:
    """The colours of PASCAL VOC for ids 0 .. num_classes-1, at most 256: (num_classes, 3) uint8.

    An id's bits are dealt to red, green and blue in turn, lowest bit first, and fill each channel from its highest bit
    down. So 0 is black, 1 dark red (128, 0, 0), 2 dark green, and 255 comes out as (224, 224, 192).
    """
    ids = np.arange(num_classes)
    colours = np.zeros((num_classes, 3), np.uint8)
    for bit in range(8):
        colours[:, bit % 3] |= ((ids >> bit & 1) << (7 - bit // 3)).astype(np.uint8)
    return colours


def palette_png(
    mask: np.ndarray, path: str | Path, ids: dict[str, int] | None = None, colours: np.ndarray | None = None, predicted: bool = False
) -> None:
    """Writes an (H, W) mask as an indexed PNG that any viewer shows in colours and any reader gives back as ids.

    ids: what the mask states in itself, see `masks.stated_ids`. colours: (256, 3) uint8; else those of PASCAL VOC.
    """
    mask = np.asarray(mask)
    if mask.ndim != 2 or mask.min() < 0 or mask.max() > 255:
        raise ValueError(
            f"a palette PNG holds an (H, W) mask of ids 0 .. 255; this one is {mask.shape} with {mask.min()} .. {mask.max()}"
        )
    image = Image.fromarray(mask.astype(np.uint8))
    image.putpalette((palette(256) if colours is None else colours).tobytes())
    image.save(path, pnginfo=stated(ids, predicted))


def stated(ids: dict[str, int] | None, predicted: bool = False) -> PngInfo:
    """The text of a PNG that states which id is which class, and that it was predicted."""
    text = PngInfo()
    for key, value in PREDICTED.items() if predicted else ():
        text.add_text(key, value)
    if ids:
        text.add_text(STATEMENT, json.dumps(ids))
    return text


def display_colours(class_names: Sequence[str], data: Data | None = None) -> np.ndarray:
    """(256, 3) uint8 by id: those of `data.colours` or `data.palette`, else hues a golden angle apart in three brightnesses, so that
    neighbours in id differ most.

    In Oklch, where equal steps look equal, by the matrices of Bjoern Ottosson's Oklab (2020); what sRGB lacks is clipped.
    A class 0 called background is pale, and so is everything unlabelled.
    """
    hues = math.radians(25) + np.arange(256) * math.pi * (3 - math.sqrt(5))
    lightness = np.array([0.66, 0.78, 0.54])[np.arange(256) % 3]
    a, b = 0.125 * np.cos(hues), 0.125 * np.sin(hues)
    roots = np.stack([
        lightness + 0.3963377774 * a + 0.2158037573 * b,
        lightness - 0.1055613458 * a - 0.0638541728 * b,
        lightness - 0.0894841775 * a - 1.2914855480 * b,
    ])
    to_linear = np.array([
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ])
    linear = (to_linear @ roots**3).clip(0, 1).T
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    colours = (encoded * 255 + 0.5).astype(np.uint8)
    if has_background(class_names):
        colours = np.roll(colours, 1, axis=0)
        colours[0] = BACKGROUND
    colours[IGNORE_INDEX] = UNLABELED
    if data is not None and (own := palette_colours(data, len(class_names))):
        colours[list(own)] = list(own.values())
    return colours


def has_background(class_names: Sequence[str]) -> bool:
    """Whether class 0 is everything that is nothing else."""
    return bool(class_names) and class_names[0].lower() == "background"


def overlay(
    image: np.ndarray, mask: np.ndarray, alpha: float = 0.6, *, class_names: Sequence[str] = (), data: Data | None = None
) -> Image.Image:
    """The mask in colours over the image in greys, its segments outlined in white.

    alpha: share of the colour, 0 .. 1. Pixels without label, and a class 0 called background, show the image.
    """
    image, mask = np.asarray(image), np.asarray(mask)
    if image.shape[:2] != mask.shape:
        raise ValueError(f"the image is {image.shape[:2]} and its mask {mask.shape}; they must have one size")
    grey = np.asarray(Image.fromarray(image).convert("L"), np.float32)[..., None]
    bare = (mask == IGNORE_INDEX) | ((mask == 0) & has_background(class_names))
    colour = display_colours(class_names, data)[mask.astype(np.uint8)]
    mixed = np.where(bare[..., None], grey, (1 - alpha) * grey + alpha * colour)
    mixed[:, :-1][mask[:, 1:] != mask[:, :-1]] = 255
    mixed[:-1][mask[1:] != mask[:-1]] = 255
    return Image.fromarray((mixed + 0.5).astype(np.uint8))


def contact_sheet(
    rows: Sequence[Sequence[np.ndarray | None]], titles: Sequence[str], class_names: Sequence[str], heading: str = "",
    data: Data | None = None, captions: Sequence[Sequence[str]] = (),
) -> Image.Image:  # fmt: skip
    """One row per image, (H, W, 3), with its truth and predictions, (H, W) ids or None, under the titles of the columns.

    The heading stands above, the colours of the classes that occur below, and captions, where there are some, below each panel.
    Of more than three pairs two stand in a row.
    """
    if not rows or any(len(row) != len(titles) for row in rows):
        raise ValueError(f"a sheet wants rows of {len(titles)} pictures, one for each title; got {[len(r) for r in rows]}")
    if len(titles) == 2 and len(rows) > 3:
        blank = [np.full((1, 1, 3), PAPER, np.uint8)] * 2
        rows = [[*left, *right] for left, right in zip_longest(rows[::2], rows[1::2], fillvalue=blank)]
        captions = [[*left, *right] for left, right in zip_longest(captions[::2], captions[1::2], fillvalue=("", ""))]
        titles = [*titles, *titles]
    sizes = [row[0].shape[1::-1] for row in rows]
    scales = [min(PANEL[0] / width, PANEL[1] / height) for width, height in sizes]
    panel = tuple(max(round(size[side] * scale) for size, scale in zip(sizes, scales)) for side in (0, 1))
    width, top = 2 * MARGIN + len(titles) * (panel[0] + GAP) - GAP, MARGIN + (LINE + GAP if heading else 0)
    step, legend = panel[1] + GAP + (LINE if captions else 0), shown_classes(rows, class_names, data)
    below = top + LINE + len(rows) * step + GAP
    sheet = Image.new("RGB", (width, below + len(legend) * LINE + MARGIN), PAPER)
    draw, colours = ImageDraw.Draw(sheet), display_colours(class_names, data)
    draw.text((MARGIN, MARGIN - 6), heading, TEXT, font(19))
    for column, title in enumerate(titles):
        left = MARGIN + column * (panel[0] + GAP)
        draw.text((left, top - 2), title, FAINT, font(14))
        for index, row in enumerate(rows):
            sheet.paste(panel_picture(row[column], panel, colours), (left, top + LINE + index * step))
            for line in captions[index : index + 1]:
                draw.text((left, top + LINE + index * step + panel[1] + 3), shorten(line[column], panel[0]), TEXT, font(14))
    left, middle = MARGIN, below + LINE // 2
    for name, colour in legend:
        length = 24 + round(font(14).getlength(name))
        if left > MARGIN and left + length > width - MARGIN:
            left, middle = MARGIN, middle + LINE
        edge = (200, 198, 192) if min(colour) > 200 else None  # around what is too pale for the paper
        draw.rounded_rectangle((left, middle - 8, left + 16, middle + 8), 4, colour, outline=edge)
        draw.text((left + 24, middle), name, TEXT, font(14), anchor="lm")
        left += length + 20
    return sheet.crop((0, 0, width, middle + LINE // 2 + MARGIN))


def spread(length: int, count: int) -> list[int]:
    """At most `count` indices, evenly spaced in a list."""
    return sorted({round(place) for place in np.linspace(0, length - 1, count)}) if length else []


def shorten(text: str, width: int) -> str:
    """The text, or its beginning with an ellipsis, in at most `width` pixels."""
    while len(text) > 1 and font(14).getlength(text) > width:
        text = text.removesuffix("…")[:-1] + "…"
    return text


def panel_picture(picture: np.ndarray | None, size: tuple[int, int], colours: np.ndarray) -> Image.Image:
    """A picture, or a mask in its colours, as large as fits into `size` and centred; a note that there is none, or no label in it."""
    if picture is None or picture.ndim == 2 and (picture == IGNORE_INDEX).all():
        panel, missing = Image.new("RGB", size, EMPTY), "no mask" if picture is None else "no label"
        ImageDraw.Draw(panel).text((size[0] / 2, size[1] / 2), missing, FAINT, font(14), anchor="mm")
        return panel
    if picture.ndim == 3:
        return ImageOps.pad(Image.fromarray(picture), size, Image.Resampling.LANCZOS, PAPER)
    # colours must not be blended into those of other classes
    return ImageOps.pad(Image.fromarray(colours[picture.astype(np.uint8)]), size, Image.Resampling.NEAREST, PAPER)


def shown_classes(
    rows: Sequence[Sequence[np.ndarray | None]], class_names: Sequence[str], data: Data | None = None
) -> list[tuple[str, tuple[int, ...]]]:
    """Name and colour of every class in any mask, by id; last, if there are any, the pixels without label."""
    ids = sorted(set().union(*(np.unique(mask).tolist() for row in rows for mask in row if mask is not None and mask.ndim == 2)))
    colours = [tuple(colour) for colour in display_colours(class_names, data).tolist()]
    named = [(class_names[i], colours[i]) for i in ids if i < len(class_names)]
    return named + ([("no label", colours[IGNORE_INDEX])] if IGNORE_INDEX in ids else [])


def font(size: int) -> ImageFont.ImageFont:
    """Pillow's own scalable font, so that a sheet looks the same on every machine."""
    return ImageFont.load_default(size)
