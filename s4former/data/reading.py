"""From a row to arrays: one image, one mask, one pair.

Images and masks are opened here and nowhere else, so every error names its file, and every palette keeps its ids. A
cell of a row is {"path", "bytes"}, as `datasets.Image(decode=False)` gives it; a path "shapes:..." is a scene that is
drawn when it is asked for.
"""

import io
import math
import struct
import zlib
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Sequence

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..config import IGNORE_INDEX, Data
from ..errors import DataError
from . import shapes
from .class_names import CITYSCAPES_TRAIN_IDS

EXIF_ORIENTATION = 0x0112
BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


def read_image(
    record: dict[str, Any], levels: tuple[float, float] = (0.0, 0.0), *, reduce: float = 1.0
) -> Image.Image:
    """The picture of a row's `image` cell as RGB, turned upright if its EXIF data says so. Grey becomes RGB.

    Args:
        record: {"path", "bytes"}, as `datasets.Image(decode=False)` gives it.
        levels: `data.levels`, the values of an image of more than 8 bits that become black and white.
        reduce: a JPEG may be decoded at 1/2, 1/4 or 1/8, if that is not below this share of its size.

    Raises:
        DataError: names the file that is missing, broken, or has more than 8 bits per channel without `levels`.
    """
    if is_drawn(record):
        return Image.fromarray(drawn(record["path"])[0])
    with opened(record, "image", reduce) as image:
        if image.mode.startswith("I") or image.mode == "F":
            image = to_eight_bits(image, levels, name_of(record))
        # a palette may hold transparency, which Pillow only takes apart on the way through RGBA
        return (image.convert("RGBA") if image.mode == "P" else image).convert("RGB")


def to_eight_bits(image: Image.Image, levels: tuple[float, float], name: str) -> Image.Image:
    """A grey image of more than 8 bits as 8: `levels` become black and white, what lies beyond is clipped."""
    values = np.asarray(image).astype(np.float64)
    low, high = levels
    if low == high:
        raise DataError(
            f"image {name} has more than 8 bits per channel (mode {image.mode}, values {values.min():g} to"
            f" {values.max():g}); say which values are black and white in all images, for example"
            f" data.levels={likely_levels(values)}, or save them as 8-bit"
        )
    grey = (values - low) * (255 / (high - low))
    return Image.fromarray((grey.clip(0, 255) + 0.5).astype(np.uint8))


def likely_levels(values: np.ndarray) -> list[float]:
    """From 0 to the smallest of the usual white values that holds all of these."""
    return [0, next((white for white in (1, 255, 1023, 4095, 16383, 65535) if values.max() <= white), float(values.max()))]


def read_mask(record: dict[str, Any], data: Data, num_classes: int) -> np.ndarray:
    """The class ids of a row's `mask` cell: (H, W) uint8, 255 = ignore. Palettes keep their ids.

    Colours become ids by `data.palette`; then `data.id_map` is applied first, then `data.ignore_index`; a mapped value counts as a class if there is such a
    class, else it has to be `data.ignore_index` or 255.

    Raises:
        DataError: names the file and the ids that are no classes, or says that the mask has colours instead of ids.
    """
    ids = mask_ids(record, palette_of(data))
    table = id_table(data, num_classes, record["path"] or "")
    values = table[ids if ids.dtype == np.uint8 else np.where(ids < 0, len(table), ids).clip(max=len(table) - 1)]
    if values.max(initial=0) > IGNORE_INDEX:
        wrong = np.unique(ids[values > IGNORE_INDEX]).tolist()
        raise DataError(
            f"mask {name_of(record)} has the id{'s' if len(wrong) > 1 else ''} {some(wrong)}, but the {num_classes}"
            f" classes have ids 0 to {num_classes - 1} and {data.ignore_index} is ignored; map ids with data.id_map, or"
            " set data.classes or data.ignore_index"
        )
    return values.astype(np.uint8)


def mask_ids(record: dict[str, Any] | None, palette: dict[int, int]) -> np.ndarray:
    """What a mask file holds, before any mapping: (H, W) uint8 or int64. Colours are looked up in the palette.

    Args:
        palette: 0xRRGGBB -> id; used for masks of colours only.
    """
    if record is None:
        raise DataError("a labelled row of the dataset has no mask; leave such rows out of data.labeled")
    if is_drawn(record):
        return drawn(record["path"])[1]
    with opened(record, "mask") as mask:
        if mask.mode in ID_MODES:
            return np.array(mask).astype(np.int64 if mask.mode.startswith("I") else np.uint8)
        colours, mode = colours_of(mask), mask.mode
    if not palette:
        raise DataError(
            f"mask {name_of(record)} holds colours (mode {mode}), not class ids; say which colour is which id with"
            f' data.palette={{"{hexadecimal(int(colours[0, 0]))}": 0, ...}}, or save it as a palette or grey PNG whose'
            " pixel values are the ids"
        )
    known = np.array(sorted(palette))
    places = np.searchsorted(known, colours).clip(max=len(known) - 1)
    strange = known[places] != colours
    if strange.any():
        values, counts = np.unique(colours[strange], return_counts=True)
        names = [hexadecimal(int(value)) for value in values[np.argsort(-counts)]]
        raise DataError(
            f"mask {name_of(record)} has {plural(len(names), 'colour')} that data.palette does not name, on"
            f" {strange.mean():.1%} of its pixels: {some(names)}; add {'it' if len(names) == 1 else 'them'}, with"
            " data.ignore_index as the id of what is no class" + (SMEARED if len(names) > 50 else "")
        )
    return np.array([palette[value] for value in known])[places]


MASK_FOLDERS = ("masks", "labels", "annotations")  # what a folder of masks beside images may be called
ID_MODES = ("L", "P", "1", "I", "I;16", "I;16B")  # of masks whose pixel values are ids
SMEARED = "; so many colours come from a JPEG or from smoothed edges, which no palette can undo"


def colours_of(mask: Image.Image) -> np.ndarray:
    """(H, W) int64: the colour of every pixel as 0xRRGGBB; transparency is left out."""
    red, green, blue = (channel.astype(np.int64) for channel in np.moveaxis(np.asarray(mask.convert("RGB")), 2, 0))
    return red << 16 | green << 8 | blue


def hexadecimal(colour: int) -> str:
    """0x804080 as "#804080"."""
    return f"#{colour:06x}"


def palette_of(data: Data) -> dict[int, int]:
    """data.palette with its colours as numbers: 0xRRGGBB -> id."""
    return {int(text[1:], 16): value for text, value in data.palette.items()}


def read_pair(row: dict[str, Any], data: Data, num_classes: int) -> tuple[Image.Image, np.ndarray]:
    """Image and mask of a labelled row; `DataError` if they do not have the same size."""
    image, mask = read_image(row["image"], data.levels), read_mask(row["mask"], data, num_classes)
    check_sizes(row, (image.height, image.width), mask.shape)
    return image, mask


def check_sizes(row: dict[str, Any], image: tuple[int, int], mask: tuple[int, int]) -> None:
    """`DataError` if the sizes (height, width) of a row's image and mask differ."""
    if image != mask:
        raise DataError(
            f"image {name_of(row['image'])} is {image[1]}x{image[0]} and its mask {name_of(row['mask'])} is"
            f" {mask[1]}x{mask[0]} (width x height); both must have the same size"
            + (", and the image is turned by its EXIF orientation" if image == mask[::-1] else "")
        )


def stated_size(record: dict[str, Any]) -> tuple[int, int]:
    """(height, width) of an image once it stands upright, from its header."""
    try:
        with Image.open(record["path"] if record["bytes"] is None else encoded(record)) as image:
            turned = image.getexif().get(EXIF_ORIENTATION, 1) >= 5
            return (image.width, image.height) if turned else (image.height, image.width)
    except BROKEN as error:
        raise DataError(f"image {name_of(record)} cannot be read: {error}") from None


def id_table(data: Data, num_classes: int, path: str) -> np.ndarray:
    """(65536,) int16: id in a mask -> class, 255 = ignore, 256 = neither."""
    table = np.full(65536, IGNORE_INDEX + 1, np.int16)
    table[:num_classes] = np.arange(num_classes)
    table[min(data.ignore_index, len(table) - 1)] = IGNORE_INDEX
    id_map = data.id_map
    if data.source == "cityscapes" and not id_map and "labelTrainIds" not in PurePosixPath(path).name:
        id_map = CITYSCAPES_TRAIN_IDS
    for raw, target in id_map.items():
        if not (raw.isdecimal() and int(raw) < len(table)):
            raise DataError(f"data.id_map has the key {raw!r}; keys are the ids in the masks, 0 to {len(table) - 1}")
        if 0 <= target < num_classes:
            table[int(raw)] = target
        elif target in (data.ignore_index, IGNORE_INDEX):
            table[int(raw)] = IGNORE_INDEX
        else:
            raise DataError(
                f"data.id_map.{raw} is {target}; use a class id from 0 to {num_classes - 1}, or"
                f" {data.ignore_index} to ignore it"
            )
    return table


# ---- the file of a cell


def opened(record: dict[str, Any], kind: str, reduce: float = 1.0) -> Image.Image:
    """The decoded picture of a cell; whatever is wrong with the file becomes a `DataError` that names it."""
    try:
        image = Image.open(encoded(record))
        if reduce < 1:
            image.draft(image.mode, tuple(math.ceil(side * reduce) for side in image.size))
        image.load()
        if kind == "image":  # masks are taken as they lie; if that was wrong, the sizes mostly tell
            image = ImageOps.exif_transpose(image)
    except FileNotFoundError:
        link = Path(record["path"])
        to = f": it is a link to {link.readlink()}, which is not there" if link.is_symlink() else ""
        raise DataError(f"{kind} {name_of(record)} does not exist{to}") from None
    except UnidentifiedImageError:
        raise DataError(f"{kind} {name_of(record)} cannot be read: its content is no image") from None
    except BROKEN as error:
        raise DataError(f"{kind} {name_of(record)} cannot be read: {error}") from None
    return image


def encoded(record: dict[str, Any]) -> io.BytesIO:
    """The bytes of a cell's file, from disk or as the dataset holds them."""
    return io.BytesIO(Path(record["path"]).read_bytes() if record["bytes"] is None else record["bytes"])


def name_of(record: dict[str, Any]) -> str:
    """What a message calls the file of a cell."""
    return record["path"] or "(held in the dataset without a file name)"


# ---- the scene of a cell


def is_drawn(record: dict[str, Any]) -> bool:
    """Whether a cell is a scene of the embedded world instead of a file."""
    return record["bytes"] is None and record["path"].startswith("shapes:")


@lru_cache(maxsize=2048)  # a scene is asked for twice, and again in every cycle; 50 kB each, drawn in 20 ms
def drawn(path: str) -> tuple[np.ndarray, np.ndarray]:
    """The scene of "shapes:SEED:INDEX:HEIGHTxWIDTH": (H, W, 3) and (H, W) uint8."""
    _, seed, index, size = path.split(":")
    height, width = map(int, size.split("x"))
    return shapes.scene(int(seed), int(index), height=height, width=width)


# ---- words for messages


def plural(count: int, word: str) -> str:
    """'1 image', '2 images'."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def some(values: Sequence[Any], most: int = 8) -> str:
    """'1, 2, 3': at most eight of them."""
    return ", ".join(map(str, values[:most])) + (f" and {len(values) - most} more" if len(values) > most else "")
