"""Image files: the one place where they are opened and become RGB uint8, so that every error names its file.

An image of a table is {"path", "bytes"}, as `datasets.Image(decode=False)` gives it; a path "shapes:..." is a scene of
shapes.py, drawn when it is read.
"""

import io
import math
import struct
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError, features

from ..errors import DataError
from . import shapes

EncodedImage = dict[str, Any]  # {"path", "bytes"}
IMAGE_ENDINGS = (  # that training, the pool and prediction read, in order of preference
    ".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".jfif", ".jpe", ".pgm", ".pbm", ".pnm",
    *([".avif"] if features.check("avif") else []), *([".jp2", ".j2k", ".jpx"] if features.check("jpg_2000") else []),
)  # fmt: skip
DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)
EXIF_ORIENTATION = 0x0112
WHITE_LEVELS = (1, 255, 1023, 4095, 16383, 65535)  # that images of more than 8 bits usually have


def read_image(file: EncodedImage, levels: tuple[float, float] = (0.0, 0.0), *, reduce: float = 1.0) -> Image.Image:
    """An image as RGB, upright as its EXIF data says.

    Args:
        levels: `data.levels`, the values of an image of more than 8 bits that become black and white.
        reduce: a JPEG may be decoded at 1/2, 1/4 or 1/8, if that is not below this share of its size.

    Raises:
        DataError: names the file that is missing, broken, or has more than 8 bits per channel without `levels`.
    """
    if is_scene(file):
        return Image.fromarray(draw_scene(file["path"])[0])
    with open_image(file, "image", reduce) as image:
        if is_deep(image.mode):
            image = to_eight_bits(image, levels, display_name(file))
        # a palette may hold transparency, which Pillow only takes apart on the way through RGBA
        return (image.convert("RGBA") if image.mode == "P" else image).convert("RGB")


def to_eight_bits(image: Image.Image, levels: tuple[float, float], name: str) -> Image.Image:
    """A grey image of more than 8 bits as 8: `levels` become black and white, what lies beyond is clipped."""
    values = np.asarray(image).astype(np.float64)
    low, high = levels
    if low == high:
        white = next((white for white in WHITE_LEVELS if values.max() <= white), float(values.max()))
        raise DataError(
            f"image {name} has more than 8 bits per channel (mode {image.mode}, values {values.min():g} to"
            f" {values.max():g}); say which values are black and white in all images, for example"
            f" data.levels={[0, white]}, or save them as 8-bit"
        )
    grey = (values - low) * (255 / (high - low))
    return Image.fromarray((grey.clip(0, 255) + 0.5).astype(np.uint8))


def open_image(file: EncodedImage, kind: str, reduce: float = 1.0) -> Image.Image:
    """The decoded file in its own mode. kind: "image", turned upright, or "mask", taken as it is."""
    try:
        image = Image.open(io.BytesIO(Path(file["path"]).read_bytes() if file["bytes"] is None else file["bytes"]))
        if reduce < 1:
            image.draft(image.mode, tuple(math.ceil(side * reduce) for side in image.size))
        if kind == "mask" and image.format in ("JPEG", "MPO", "WEBP", "AVIF"):
            name = f"mask {display_name(file)} is a {image.format} inside, which smears the ids of neighbours"
            raise DataError(f"{name}; save it anew as PNG, from what it was made of")
        image.load()
        return ImageOps.exif_transpose(image) if kind == "image" else image
    except DataError:
        raise
    except FileNotFoundError:
        path = Path(file["path"])
        target = f": it is a link to {path.readlink()}, which is not there" if path.is_symlink() else ""
        raise DataError(f"{kind} {display_name(file)} does not exist{target}") from None
    except UnidentifiedImageError:
        raise DataError(f"{kind} {display_name(file)} cannot be read: its content is no image") from None
    except DECODE_ERRORS as error:
        raise DataError(f"{kind} {display_name(file)} cannot be read: {error}") from None


class Header(NamedTuple):
    """(height, width) of an image once it is upright, and its mode, as Pillow calls it."""

    size: tuple[int, int]
    mode: str


def read_header(file: EncodedImage) -> Header:
    """The header of an image, which is not decoded."""
    try:
        with Image.open(file["path"] if file["bytes"] is None else io.BytesIO(file["bytes"])) as image:
            turned = image.getexif().get(EXIF_ORIENTATION, 1) >= 5
            return Header((image.width, image.height) if turned else (image.height, image.width), image.mode)
    except DECODE_ERRORS as error:
        raise DataError(f"image {display_name(file)} cannot be read: {error}") from None


def is_deep(mode: str) -> bool:
    """Whether images of a mode have more than 8 bits per sample."""
    return mode.startswith("I") or mode == "F"


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
