"""Mask files: what they hold becomes ids, and ids become classes; 255 is ignored."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from ..config import IGNORE_INDEX, Data
from ..errors import DataError, join_first, plural
from .class_names import CITYSCAPES_TRAIN_IDS
from .images import EncodedImage, display_name, draw_scene, is_scene, open_header, open_image, read_header, read_image, turn_upright

MASK_ENDINGS = (".png", ".tif", ".tiff", ".bmp", ".gif")  # in order of preference; JPEG would smear the ids
MASK_FOLDERS = ("masks", "labels", "annotations")  # what a folder of masks beside images may be called
ID_MODES = ("L", "P", "1", "I", "I;16", "I;16B")  # Pillow's modes of masks whose pixel values are ids
GREY_MODES = ("L", "1", "LA")
LARGEST_ID = 65535
STATEMENT = "s4former"  # the text in a PNG of this package that says which id is which class
PREDICTED = {"Software": "s4former prediction"}  # the text in what `predict` and `pool` write, and in nothing that was drawn
SMEARED = "; so many colours come from a JPEG or from smoothed edges, which no palette can undo"


def read_pair(row: dict[str, Any], data: Data, num_classes: int) -> tuple[Image.Image, np.ndarray]:
    """Image and mask of a labelled row; `DataError` if they do not have the same size."""
    image, mask = read_image(row["image"], data.levels), read_upright_mask(row, data, num_classes)
    check_sizes(row, (image.height, image.width), mask.shape)
    return image, mask


def read_upright_mask(row: dict[str, Any], data: Data, num_classes: int) -> np.ndarray:
    """The mask of a labelled row, turned with its image where `data.exif` says that it was drawn on unturned pixels."""
    mask = read_mask(row["mask"], data, num_classes)
    return turn_upright(mask, read_header(row["image"]).turn) if data.exif == "raw" and not is_scene(row["image"]) else mask


def check_sizes(row: dict[str, Any], image: tuple[int, int], mask: tuple[int, int]) -> None:
    """`DataError` if the sizes (height, width) of a row's image and mask differ."""
    if image != mask:
        raise DataError(
            f"image {display_name(row['image'])} is {image[1]}x{image[0]} and its mask {display_name(row['mask'])} is"
            f" {mask[1]}x{mask[0]} (width x height); both must have the same size"
            + (", and the image is turned by its EXIF orientation (data.exif=raw turns masks with it)" if image == mask[::-1] else "")
        )


def read_mask(file: EncodedImage, data: Data, num_classes: int) -> np.ndarray:
    """The class ids of a mask: (H, W) uint8, 255 = ignore; `DataError` for ids that are no classes, or colours instead of ids.

    Colours become ids by `data.palette`; then `data.id_map` applies, then `data.ignore_index`; negative ids are ignored.
    """
    table = class_table(data, num_classes, file["path"] or "")
    ids = read_ids(file, packed_palette(data), table)
    values = table[ids if ids.dtype == np.uint8 else ids.clip(-1, LARGEST_ID + 1)]
    if values.max(initial=0) > IGNORE_INDEX:
        wrong, known = np.unique(ids[values > IGNORE_INDEX]).tolist(), np.flatnonzero(table < IGNORE_INDEX).tolist()
        raise DataError(
            f"mask {display_name(file)} has the id{'s' if len(wrong) > 1 else ''} {join_first(wrong)}, but the {num_classes}"
            f" classes have ids {join_first(known)} and {data.ignore_index} is ignored; map ids with data.id_map, or"
            " set data.classes or data.ignore_index"
        )
    return values.astype(np.uint8)


def class_table(data: Data, num_classes: int, path: str) -> np.ndarray:
    """(65538,) int16: id in the mask at `path` -> class, 255 = ignore, 256 = neither; last, what a negative id is: ignored."""
    table = np.full(LARGEST_ID + 3, IGNORE_INDEX + 1, np.int16)
    id_map = data.id_map
    if data.source == "cityscapes" and not id_map and "labelTrainIds" not in PurePosixPath(path).name:
        id_map = CITYSCAPES_TRAIN_IDS
    if not {*range(num_classes)} <= {*id_map.values()}:  # one that has every class says all
        table[:num_classes] = np.arange(num_classes)
    table[[data.ignore_index, -1]] = IGNORE_INDEX
    for raw, target in id_map.items():
        if not (raw.isdecimal() and int(raw) <= LARGEST_ID):
            raise DataError(f"data.id_map has the key {raw!r}; keys are the ids in the masks, 0 to {LARGEST_ID}")
        if not 0 <= target < num_classes and target not in (data.ignore_index, IGNORE_INDEX):
            raise DataError(
                f"data.id_map.{raw} is {target}; use a class id from 0 to {num_classes - 1}, or"
                f" {data.ignore_index} to ignore it"
            )
        table[int(raw)] = target if 0 <= target < num_classes else IGNORE_INDEX
    return table


def read_ids(file: EncodedImage | None, palette: dict[int, int], table: np.ndarray | None = None) -> np.ndarray:
    """What a mask file holds, before any mapping: (H, W) uint8 or int64.

    palette: 0xRRGGBB -> id, for masks of colours; without one, the palette inside a file is for display only.
    table: of `class_table`; a mask that says which id is which class has to agree with it.
    """
    if file is None:
        raise DataError("a labelled row of the dataset has no mask; leave such rows out of data.labeled")
    if is_scene(file):
        return draw_scene(file["path"])[1]
    with open_image(file, "mask") as mask:
        if table is not None and not palette:
            check_stated_ids(mask, table, display_name(file))
        ids, mode = ids_of(mask, palette), mask.mode
        if ids is not None:
            return ids
        colours = packed_rgb(mask)
    if not palette:
        raise DataError(
            f"mask {display_name(file)} holds colours (mode {mode}), not class ids; say which colour is which id with"
            f' data.palette={{"{hex_colour(int(colours[0, 0]))}": 0, ...}}, or save it as a palette or grey PNG whose'
            " pixel values are the ids"
        )
    known = np.array(sorted(palette))
    places = np.searchsorted(known, colours).clip(max=len(known) - 1)
    unknown = known[places] != colours
    if unknown.any():
        values, counts = np.unique(colours[unknown], return_counts=True)
        names = [hex_colour(int(value)) for value in values[np.argsort(-counts)]]
        raise DataError(
            f"mask {display_name(file)} has {plural(len(names), 'colour')} that data.palette does not name, on"
            f" {unknown.mean():.1%} of its pixels: {join_first(names)}; add {'it' if len(names) == 1 else 'them'}, with"
            " data.ignore_index as the id of what is no class" + (SMEARED if len(names) > 50 else "")
        )
    return np.array([palette[value] for value in known])[places]


def ids_of(mask: Image.Image, palette: Collection[int]) -> np.ndarray | None:
    """The ids that the pixels of a mask are; None if they are colours, which are looked up in a palette.

    palette: its colours, 0xRRGGBB. With one, indices and three equal channels are colours too, and greys if it names them all:
    programs save a mask of colours that is black and white as grey.
    """
    if mask.mode in GREY_MODES and palette and all(grey * 0x10101 in palette for _, grey in mask.convert("L").getcolors()):
        return None
    if mask.mode in ID_MODES and not (palette and mask.mode == "P"):
        return np.array(mask).astype(np.int64 if mask.mode.startswith("I") else np.uint8)
    if mask.mode == "F":
        values = np.nan_to_num(np.asarray(mask), nan=-1, posinf=-1, neginf=-1)  # no number is no label
        return values.astype(np.int64) if (values == np.round(values)).all() else None
    if mask.mode == "LA" or mask.mode in ("RGB", "RGBA") and not palette:
        pixels = np.asarray(mask)
        channels, alpha = (pixels[..., :-1], pixels[..., -1]) if mask.mode.endswith("A") else (pixels, np.array(255))
        if (channels == channels[..., :1]).all() and (alpha == 255).all():
            return channels[..., 0]
    return None


def shown_colours(mask: Image.Image, ids: Iterable[int]) -> dict[int, int]:
    """Id -> its colour in the palette of an indexed mask; nothing of a grey palette, or of a mask that states its ids."""
    if mask.mode != "P" or stated_ids(mask):
        return {}
    table = np.array(mask.getpalette("RGB")).reshape(-1, 3)
    if (table == np.arange(len(table))[:, None]).all():
        return {}
    return {index: int.from_bytes(table[index].tolist()) for index in ids if index < len(table)}


def check_palettes(masks: Iterable[tuple[str, dict[int, int]]], greys: Mapping[int, str] = {}) -> None:
    """Refuses indexed masks, as names and shown colours, if an id has two colours: the palettes were made anew for each file.

    greys: id -> a grey mask that holds it; an indexed mask in greys alone may not show it as another id.
    """
    first: dict[int, tuple[int, str]] = {}
    for name, shown in masks:
        in_greys = not any(colour % 0x10101 for colour in shown.values())
        for index, colour in shown.items():
            other, mask = first.setdefault(index, (colour, name))
            if in_greys and (grey := colour & 255) != index and grey in greys:
                other, mask = index * 0x10101, greys[grey]
            if other != colour:
                raise DataError(
                    f"the id {index} is {hex_colour(other)} in {mask} and {hex_colour(colour)} in {name}: each has a palette"
                    " of its own, so the ids do not say what is meant; name the colours, in a config with data.palette, for"
                    f' new-config with --palette FILE (JSON, {{"NAME": "{hex_colour(colour)}", ...}}), or, if the ids are right,'
                    " save the masks as grey PNGs"
                )


def check_palettes_of(files: Iterable[EncodedImage], data: Data) -> None:
    """`check_palettes` of mask files that go by id; they are decoded only if their palettes differ at all."""
    palettes, indexed = set(), []
    for file in files if not data.palette else ():
        with suppress(DataError), open_header(file, "mask") as mask:
            if mask.mode == "P" and not stated_ids(mask):
                palettes.add(mask.palette.getdata()[1])
                indexed.append(file)
    if len(palettes) > 1:
        masks = ((display_name(file), open_image(file, "mask")) for file in indexed)
        check_palettes((name, shown_colours(mask, np.unique(mask).tolist())) for name, mask in masks)


def two_binaries(masks: Sequence[Collection[int]]) -> str:
    """That some of the masks, given by their ids, hold 1 and others 255, which may mean the same; empty if one holds both."""
    ones, tops = (sum(index in ids for ids in masks) for index in (1, IGNORE_INDEX))
    both = any(1 in ids and IGNORE_INDEX in ids for ids in masks)
    return f"{plural(ones, 'mask')} with the id 1, {tops} others with 255, none with both" if ones and tops and not both else ""


def stated_ids(mask: Image.Image) -> dict[str, int]:
    """The class name of each id, "" = no label, that a mask of this package states in itself; empty for masks of others."""
    try:
        content = json.loads(mask.info.get(STATEMENT, "{}"))
    except (ValueError, TypeError):
        return {}
    return content if isinstance(content, dict) and all(type(index) is int for index in content.values()) else {}


def check_stated_ids(mask: Image.Image, table: np.ndarray, name: str) -> None:
    """`DataError` if the config reads a mask of this package in other ids than those it was written with."""
    for place, (title, index) in enumerate(stated_ids(mask).items()):
        wanted = place if title else IGNORE_INDEX
        if table[min(index, LARGEST_ID)] != wanted:
            raise DataError(
                f"mask {name} was written with the id {index} for {title or 'no label'}, and the config reads this id otherwise;"
                f' set data.id_map={{"{index}": {wanted}}}, or write the masks again with the config they are read with'
            )


def raw_ids(data: Data, num_classes: int) -> np.ndarray:
    """(256,) int64: class -> the id that stands for it in the masks of the data, at 255 that of no label.

    An id that data.id_map names goes before the number of the class, which then is in no mask of data that `new-config` looked at.
    """
    table = class_table(data, num_classes, "")[: LARGEST_ID + 1]
    if data.palette:  # the ids that a colour stands for
        table[np.setdiff1d(np.arange(len(table)), list(data.palette.values()))] = IGNORE_INDEX + 1
    ids = np.full(IGNORE_INDEX + 1, data.ignore_index)
    for index in (IGNORE_INDEX, *range(num_classes)):
        if (found := np.flatnonzero(table == index)).size:
            named = [int(raw) for raw, target in data.id_map.items() if target == index != IGNORE_INDEX]
            preferred = (data.ignore_index,) if index == IGNORE_INDEX else (*named, index)
            ids[index] = next(each for each in (*preferred, *found) if each in found)
    return ids


def palette_colours(data: Data, num_classes: int) -> dict[int, tuple[int, int, int]]:
    """Class -> its colour in `data.colours`, else in `data.palette`, at 255 that of no label; without those that have none."""
    raw, shown = raw_ids(data, num_classes), {index: colour for colour, index in packed_palette(data).items()}
    found = {place: shown.get(int(raw[place])) for place in (*range(num_classes), IGNORE_INDEX)}
    found |= {place: int(text[1:], 16) for place, text in enumerate(data.colours[:num_classes]) if text}
    return {place: (colour >> 16, colour >> 8 & 255, colour & 255) for place, colour in found.items() if colour is not None}


def packed_rgb(mask: Image.Image) -> np.ndarray:
    """(H, W) int64: the colour of every pixel as 0xRRGGBB; transparency is left out."""
    red, green, blue = (channel.astype(np.int64) for channel in np.moveaxis(np.asarray(mask.convert("RGB")), 2, 0))
    return red << 16 | green << 8 | blue


def packed_palette(data: Data) -> dict[int, int]:
    """`data.palette` with its colours as numbers: 0xRRGGBB -> id."""
    return {int(text[1:], 16): value for text, value in data.palette.items()}


def hex_colour(colour: int) -> str:
    """0x804080 as "#804080"."""
    return f"#{colour:06x}"
