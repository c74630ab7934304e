"""Small images, masks and lists on disk, for the tests that read data."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from s4former.config import Data
from s4former.errors import DataError

HEIGHT, WIDTH = 16, 24
PALETTE = [0, 0, 0, 128, 0, 0, 0, 128, 0] + [7] * 759


def picture(height=20, width=31, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def save_image(path, height=HEIGHT, width=WIDTH):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(path)


def save_deep_colour(path, values):
    """(H, W, 3) uint16, or (H, W, 2), grey with alpha, as a PNG, or a TIFF of three, of 16 bits per channel."""
    height, width, channels = values.shape
    if path.suffix == ".tif":
        tags = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, 3, 8), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 14)]
        tags += [(277, 3, 1, 3), (278, 3, 1, height), (279, 4, 1, values.nbytes)]
        head = b"II*\0" + struct.pack("<I", 14 + values.nbytes) + struct.pack("<3H", 16, 16, 16)
        entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
        path.write_bytes(head + values.astype("<u2").tobytes() + struct.pack("<H", len(tags)) + entries + bytes(4))
        return

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    kind = {2: 4, 3: 2}[channels]
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b""))


def png_chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def save_photo(path, seed, height=HEIGHT, width=WIDTH):
    """A picture unlike those of other seeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def ids(height=HEIGHT, width=WIDTH):
    """Three classes and an ignored border."""
    mask = np.zeros((height, width), np.uint8)
    mask[4:8], mask[8:], mask[:, 0] = 1, 2, 255
    return mask


def save_mask(path, mask=None, palette=True):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(ids() if mask is None else mask)
    if palette:
        picture.putpalette(PALETTE)
    picture.save(path)


def write(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def encoded(path):
    """A file as the image column of a table has it."""
    return {"path": str(path), "bytes": None}


def make_folder(tmp_path):
    """A data folder with six images a..f; a, b and f have masks."""
    root = tmp_path / "flowers"
    for name in "abcdef":
        save_image(root / "images" / f"{name}.jpg")
    for name in "abf":
        save_mask(root / "masks" / f"{name}.png")
    write(root / "labeled.txt", "b", "a")
    write(root / "test.txt", "f")
    return root


def data(root, **changes):
    values = {"source": "folder", "root": str(root), "labeled": "labeled.txt", "validation": "test.txt"}
    return Data(**{**values, "classes": ("ground", "leaf", "bud"), **changes})


def error_message(call, *arguments):
    """The message of the DataError that a call raises."""
    with pytest.raises(DataError) as caught:
        call(*arguments)
    return str(caught.value)
