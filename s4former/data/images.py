"""Image files: the one place where they are opened and become RGB uint8, so that every error names its file.

An image of a table is {"path", "bytes"}, as `datasets.Image(decode=False)` gives it; a path "shapes:..." is a scene of
shapes.py, drawn when it is read.
"""

import io
import math
import re
import struct
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageSequence, TiffImagePlugin, UnidentifiedImageError, features

from ..errors import DataError, plural
from . import shapes

EncodedImage = dict[str, Any]  # {"path", "bytes"}
IMAGE_ENDINGS = (  # that training, the pool and prediction read, in order of preference
    ".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".jfif", ".jpe", ".pgm", ".pbm", ".pnm",
    *([".avif"] if features.check("avif") else []), *([".jp2", ".j2k", ".jpx"] if features.check("jpg_2000") else []),
)  # fmt: skip
DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)
LOW_BYTES = "s4former low bytes"  # of a 16-bit colour image, in the info of what was opened
EXIF_ORIENTATION = 0x0112
EXIF_KEYWORDS = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")  # of an image's info, in which Pillow finds it
TURNS = dict(enumerate(map(Image.Transpose.__getitem__, (  # of the orientations 2 to 8
    "FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90",
)), start=2))  # fmt: skip
TIFF_TAGS = (TiffImagePlugin.IMAGEWIDTH, TiffImagePlugin.IMAGELENGTH, TiffImagePlugin.SAMPLESPERPIXEL)
WHITE_LEVELS = (1, 255, 1023, 4095, 16383, 65535)  # that images of more than 8 bits usually have


def read_image(file: EncodedImage, levels: tuple[float, float] = (0.0, 0.0), *, reduce: float = 1.0) -> Image.Image:
    """An image as RGB, upright as its EXIF data says; `DataError` for a file that is missing, broken, or deep without `levels`.

    levels: `data.levels`, the values of an image of more than 8 bits that become black and white.
    reduce: a JPEG may be decoded at 1/2, 1/4 or 1/8, if that is not below this share of its size.
    """
    if is_scene(file):
        return Image.fromarray(draw_scene(file["path"])[0])
    with open_image(file, "image", reduce) as image:
        if is_deep(image.mode) or LOW_BYTES in image.info:
            image = to_eight_bits(samples_of(image), levels, f"{display_name(file)} has more than 8 bits per channel (mode {image.mode}")
        # a palette may hold transparency, which Pillow only takes apart on the way through RGBA
        return (image.convert("RGBA") if image.mode == "P" else image).convert("RGB")


def samples_of(image: Image.Image) -> np.ndarray:
    """The values of an opened image of more than 8 bits: (H, W), or (H, W, 3) of 16-bit colour, float64."""
    values = np.asarray(image).astype(np.float64)
    if LOW_BYTES in image.info:
        values = (256 * values + image.info[LOW_BYTES])[..., :3]
    return values


def measured_values(values: np.ndarray) -> np.ndarray:
    """The values that are data: finite, and not one number, repeated, farther off than all the others lie apart."""
    values = values[np.isfinite(values)]
    for edge in (values.min(initial=np.inf), values.max(initial=-np.inf)):
        rest = values[values != edge]
        if rest.size and np.ptp(rest) and values.size - rest.size > 1 and np.abs(rest - edge).min() > np.ptp(rest):
            values = rest
    return values


def to_eight_bits(values: np.ndarray, levels: tuple[float, float], name: str) -> Image.Image:
    """Values as 8 bits: `levels` become black and white, what lies beyond is clipped, what is not finite is black."""
    low, high = levels
    if low == high:
        found = measured_values(values)
        white = next((white for white in WHITE_LEVELS if found.max(initial=0) <= white), float(found.max(initial=0)))
        raise DataError(
            f"image {name}, values {found.min(initial=np.inf):g} to"
            f" {found.max(initial=-np.inf):g}); say which values are black and white in all images, for example"
            f" data.levels={[0, white]}, or save them as 8-bit"
        )
    grey = (np.where(np.isfinite(values), values, low) - low) * (255 / (high - low))
    return Image.fromarray((grey.clip(0, 255) + 0.5).astype(np.uint8))


def check_contrast(image: Image.Image, file: EncodedImage) -> None:
    """`DataError` if an image as it is trained on is one grey or one colour."""
    if all(low == high for low, high in image.getextrema()):
        raise DataError(
            f"image {display_name(file)} is one colour, {image.getpixel((0, 0))}; look at data.levels if it has more than 8"
            " bits, else leave it out"
        )


def open_image(file: EncodedImage, kind: str, reduce: float = 1.0) -> Image.Image:
    """The decoded file in its own mode; of 16-bit colour, the low bytes lie in its `info`.

    kind: "image", turned upright, or "mask", taken as it is.
    """
    with decoding(file, kind):
        content = read_bytes(file)
        image = Image.open(io.BytesIO(content))
        if kind == "mask":
            check_mask_format(image, f"mask {display_name(file)}")
        if reduce < 1:
            image.draft(image.mode, tuple(math.ceil(side * reduce) for side in image.size))
        low = low_bytes(image, content)
        image.load()
        turn = exif_orientation(image) if kind == "image" else 1
        if low is not None:
            image.info[LOW_BYTES] = turn_upright(low, turn)
        if turn > 1:  # ImageOps.exif_transpose writes the other EXIF data anew, and cannot if it is odd
            image = image.transpose(TURNS[turn])
            image.info = {key: value for key, value in image.info.items() if key not in EXIF_KEYWORDS}
        return image


def read_bytes(file: EncodedImage) -> bytes:
    return Path(file["path"]).read_bytes() if file["bytes"] is None else file["bytes"]


@contextmanager
def decoding(file: EncodedImage, kind: str) -> Iterator[None]:
    """Says in a `DataError` why an image or mask cannot be decoded."""
    name = f"{kind} {display_name(file)}"
    try:
        yield
    except DataError:
        raise
    except FileNotFoundError:
        path = Path(file["path"])
        target = f": it is a link to {path.readlink()}, which is not there" if path.is_symlink() else ""
        raise DataError(f"{name} does not exist{target}") from None
    except Image.DecompressionBombError:
        limit = f"{2 * Image.MAX_IMAGE_PIXELS / 1e6:.0f} million"
        raise DataError(f"{name} has more pixels than Pillow opens, {limit}; cut it into tiles") from None
    except UnidentifiedImageError:
        why = "its content is no image"
        if bands := tiff_bands(read_bytes(file)):
            why = f"it is a TIFF of {plural(bands, 'band')} in a form that is not read; save it anew with 1, 3 or 4 bands"
        raise DataError(f"{name} cannot be read: {why}") from None
    except DECODE_ERRORS as error:
        raise DataError(f"{name} cannot be read: {error}") from None


def tiff_bands(content: bytes) -> int:
    """How many bands a TIFF states; 0 if the content is none."""
    if content[:4] not in (b"II*\0", b"MM\0*"):
        return 0
    directory, stream = TiffImagePlugin.ImageFileDirectory_v2(content[:8]), io.BytesIO(content)
    with suppress(*DECODE_ERRORS):
        stream.seek(directory.next)
        directory.load(stream)
    return directory.get(TiffImagePlugin.SAMPLESPERPIXEL, 1)


def check_mask_format(image: Image.Image, name: str) -> None:
    """Refuses masks whose content cannot be ids."""
    if image.format in ("JPEG", "MPO", "WEBP", "AVIF"):
        raise DataError(
            f"{name} is a {image.format} inside, which smears the ids of neighbours; save it anew as PNG, from what it was"
            " made of"
        )
    if deep_mode(image):
        raise DataError(f"{name} has 16 bits per colour; save it as a PNG of ids, or with 8 bits per colour")


def deep_mode(image: Image.Image) -> str:
    """Pillow's raw mode of a 16-bit colour image that is not yet decoded, such as "RGB;16B"; else empty."""
    args = image.tile[0][3] if image.tile else ""
    raw = args if isinstance(args, str) else args[0] if args else ""
    return raw if isinstance(raw, str) and re.fullmatch(r"(RGB|RGBA|RGBX|RGBa|LA);16[BLN]", raw) else ""


def low_bytes(image: Image.Image, content: bytes) -> np.ndarray | None:
    """The low bytes of 16-bit colour, of which Pillow decodes the high ones: it decodes again with the bytes exchanged."""
    raw = deep_mode(image)
    if not raw:
        return None
    big = raw.endswith("B") or raw.endswith("N") and sys.byteorder == "big"
    grey = raw.startswith("LA")  # which Pillow does not exchange: its four bytes, high and low in turn
    swapped = "RGBA" if grey else raw[:-1] + ("L" if big else "B")
    low = Image.open(io.BytesIO(content))
    low.tile = [(*tile[:3], swapped if isinstance(tile[3], str) else (swapped, *tile[3][1:])) for tile in low.tile]
    low.load()
    return np.asarray(low)[..., [1, 1, 1, 3]] if grey else np.asarray(low)


class Header(NamedTuple):
    """(height, width) of an image once it is upright, and its mode, as Pillow calls it; of 16-bit colour the raw mode."""

    size: tuple[int, int]
    mode: str
    turn: int = 1  # EXIF orientation, 1 = none
    part: str = ""  # what is read of a TIFF of several pages, or of two, or of five or more bands


def read_header(file: EncodedImage) -> Header:
    """The header of an image, which is not decoded."""
    with open_header(file, "image") as image:
        mode = deep_mode(image) or image.mode  # first, since an image that is decoded has no raw mode
        if image.format == "PNG" and has_late_exif(image):
            image.load()
        turn = exif_orientation(image)
        (width, height), size, part = image.size, image.size, ""
        if image.format == "TIFF":  # newer versions of Pillow give the size of one that is turned
            width, height, bands = (image.tag_v2.get(tag, other) for tag, other in zip(TIFF_TAGS, (width, height, 1)))
            pages = sum(page.size == size for page in ImageSequence.Iterator(image))  # smaller ones are overviews
            part = f"the first {3 if bands > 4 else 1} of {bands} bands" if bands not in (1, 3, 4) else ""
            part = f"the first of {pages} pages" if pages > 1 else part
        return Header((width, height) if turn >= 5 else (height, width), mode, turn, part)


def has_late_exif(image: Image.Image) -> bool:
    """Whether EXIF data of a PNG stands behind its pixels, where Pillow finds it only when it decodes them."""
    image.fp.seek(8)
    while chunk := image.fp.read(32):
        keyword = chunk[8:].split(b"\0")[0].decode("latin-1")
        if chunk[4:8] == b"eXIf" and "exif" not in image.info or keyword in EXIF_KEYWORDS and keyword not in image.info:
            return True
        image.fp.seek(int.from_bytes(chunk[:4], "big") + 12 - len(chunk), io.SEEK_CUR)  # its length, type and checksum
    return False


def exif_orientation(image: Image.Image) -> int:
    """The EXIF orientation of an opened image, 1 to 8; 1 = upright, also where the EXIF data is broken."""
    turn = None
    with suppress(*DECODE_ERRORS, TypeError):
        turn = Image.Image.getexif(image).get(EXIF_ORIENTATION)  # image.getexif() decodes a PNG
    return turn if turn in range(1, 9) else 1


@contextmanager
def open_header(file: EncodedImage, kind: str) -> Iterator[Image.Image]:
    """A file that is opened and not decoded. kind: "image" or "mask", for messages."""
    source = file["path"] if file["bytes"] is None else io.BytesIO(file["bytes"])
    with decoding(file, kind), Image.open(source) as image:
        yield image


def check_end(file: EncodedImage) -> None:
    """`DataError` if a JPEG or PNG was cut short; it is decoded only if its end is not as usual."""
    with open(file["path"], "rb") as stream:
        start = stream.read(4)
        stream.seek(max(0, stream.seek(0, io.SEEK_END) - 64))
        end = stream.read()
    usual = {b"\xff\xd8": end.rstrip(b"\0").endswith(b"\xff\xd9"), b"\x89P": b"IEND" in end}
    if not usual.get(start[:2], True):
        open_image(file, "image")


def turn_upright(pixels: np.ndarray, turn: int) -> np.ndarray:
    """Pixels (H, W) or (H, W, C) uint8, as they are stored, turned by an EXIF orientation."""
    return np.asarray(Image.fromarray(pixels).transpose(TURNS[turn])) if turn > 1 else pixels


def turn_back(pixels: np.ndarray, turn: int) -> np.ndarray:
    """Upright pixels as they would be stored with an EXIF orientation; those of a quarter turn are each other's inverse."""
    return turn_upright(pixels, {6: 8, 8: 6}.get(turn, turn))


def is_deep(mode: str) -> bool:
    """Whether images of a mode have more than 8 bits per sample."""
    return mode.startswith("I") or mode == "F" or ";16" in mode


def display_name(file: EncodedImage) -> str:
    """What a message calls a file."""
    return file["path"] or "(held in the dataset without a file name)"


def is_scene(file: EncodedImage) -> bool:
    """Whether an image is a drawn scene instead of a file."""
    return file["bytes"] is None and file["path"].startswith("shapes:")


@lru_cache(maxsize=2048)  # a scene is read twice, and again in every cycle; 50 kB each, drawn in 20 ms
def draw_scene(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Image (H, W, 3) and mask (H, W), uint8, of "shapes:SEED:INDEX:HEIGHTxWIDTH"."""
    _, seed, index, size = path.split(":")
    height, width = map(int, size.split("x"))
    return shapes.scene(int(seed), int(index), height=height, width=width)
