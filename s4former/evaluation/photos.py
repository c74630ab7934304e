"""Photographs that have no mask: found, read one after the other, and left as class maps to use and pictures to look at."""

import glob
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterable, Iterator, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..data.images import IMAGE_ENDINGS, EncodedImage, read_image
from ..data.masks import MASK_FOLDERS
from ..data.prefetch import prefetch
from ..errors import DataError
from .pictures import contact_sheet, overlay, palette_png

LOOK = 2048  # longest side of an overlay, pixels
ROWS = 10  # of the contact sheet
AHEAD = 2  # photos that are decoded before they are asked for; each takes its memory


@dataclass(frozen=True)
class Photo:
    """image: (3, H, W) uint8, upright. id: what its results are called."""

    image: Tensor
    id: str


def find_photos(pattern: str) -> dict[str, EncodedImage]:
    """The image files meant by a file, a folder (with all below it) or a glob, as cells by id, in order of their paths.

    In a folder, what lies in a masks/ (labels/, annotations/) beside images/ or beside photos is a mask, and no photo.
    An id is the path below the folder that all have in common, without suffix unless two files differ in nothing else;
    "/" becomes "__".

    Raises:
        DataError: there is none.
    """
    path = Path(pattern).expanduser()
    if path.is_dir():
        found = [file for file in path.rglob("*") if file.suffix.lower() in IMAGE_ENDINGS and file.is_file()]
        with_photos = {file.parents[1] if file.parent.name == "images" else file.parent for file in found}
        masks = {folder / name for folder in with_photos for name in MASK_FOLDERS}
        found = sorted(file for file in found if masks.isdisjoint(file.parents))
    else:
        names = [str(path)] if path.is_file() else glob.glob(str(path), recursive=True)
        found = sorted(file for file in map(Path, names) if file.is_file())
    if not found:
        what = "the folder has no image below it" if path.is_dir() else "there is no such file or folder, and it matches none"
        raise DataError(
            f"--images {pattern!r}: {what}; give a file, a folder with {', '.join(sorted(IMAGE_ENDINGS))} files, or a glob in quotes"
        )
    root = path if path.is_dir() else common_folder(found)
    short = [file.relative_to(root).with_suffix("").as_posix() for file in found]
    times = Counter(short)
    names = [name if times[name] == 1 else file.relative_to(root).as_posix() for name, file in zip(short, found)]
    return {file_name(name): {"path": str(file), "bytes": None} for name, file in zip(names, found)}


def file_name(id: str) -> str:
    """Ids of nested folders stay apart, and inside the folder of the results."""
    return id.replace("/", "__")


def common_folder(files: Sequence[Path]) -> Path:
    """The deepest folder that holds all files."""
    folder = files[0].parent
    while not all(file.is_relative_to(folder) for file in files):
        folder = folder.parent
    return folder


def read_photos(
    photos: Iterable[tuple[str, EncodedImage]], complaints: list[str], levels: tuple[float, float] = (0.0, 0.0)
) -> Iterator[Photo]:
    """The photos, (id, cell) each, that can be read, in order; for every other a sentence is added to the complaints.

    Args:
        levels: `data.levels`, of images with more than 8 bits.
    """

    def decode(photo: tuple[str, EncodedImage]) -> Photo | DataError:
        try:
            image = read_image(photo[1], levels)
        except DataError as error:
            return error
        return Photo(torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous(), photo[0])

    for photo in prefetch(decode, photos, AHEAD):
        if isinstance(photo, DataError):
            complaints.append(str(photo))
        else:
            yield photo


def save_maps(folder: Path, items: Sequence[Any], maps: Tensor, classes: Sequence[str]) -> None:
    """FOLDER/masks/ID.png with ids under the palette of PASCAL VOC, and FOLDER/overlays/ID.jpg to look at.

    Args:
        items: with `image` (3, H, W) uint8 and `id`.
        maps: (B, H, W) of class ids, in the sizes of the images.
    """
    for name in ("masks", "overlays"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for item, mask in zip(items, maps.to(torch.uint8).cpu().numpy()):
        name = file_name(item.id)
        palette_png(mask, folder / "masks" / f"{name}.png")
        picture = Image.fromarray(item.image.permute(1, 2, 0).numpy())
        shown = fitted(Image.fromarray(mask), LOOK, Image.Resampling.NEAREST)
        picture = np.asarray(fitted(picture, LOOK, Image.Resampling.LANCZOS))
        overlay(picture, np.asarray(shown), class_names=classes).save(folder / "overlays" / f"{name}.jpg", quality=92)


def fitted(picture: Image.Image, side: int, way: Image.Resampling) -> Image.Image:
    """The picture, made smaller if its longer side is longer than `side`."""
    scale = min(1, side / max(picture.size))
    return picture if scale == 1 else picture.resize([max(1, round(length * scale)) for length in picture.size], way)


def draw_sheet(
    folder: Path, photos: dict[str, EncodedImage], classes: Sequence[str], levels: tuple[float, float] = (0.0, 0.0)
) -> Path | None:
    """FOLDER/sheet.png: photo beside class map for photos spread over the list; None if none of them has a map."""
    names = [name for name in photos if (folder / "masks" / f"{name}.png").is_file()]
    if not names:
        return None
    pairs = []
    for index in sorted({round(place) for place in np.linspace(0, len(names) - 1, 2 * ROWS)}):
        name = names[index]
        image = fitted(read_image(photos[name], levels), 600, Image.Resampling.LANCZOS)
        with Image.open(folder / "masks" / f"{name}.png") as mask:
            pairs.append([np.asarray(image), np.asarray(fitted(mask, 600, Image.Resampling.NEAREST))])
    heading = f"{len(names)} images" if len(pairs) == len(names) else f"{len(pairs)} of {len(names)} images"
    if len(pairs) > 3:  # two pairs in a row
        pairs = [left + right for left, right in zip(pairs[::2], pairs[1::2])]
    titles = ["image", "prediction"] * (len(pairs[0]) // 2)
    contact_sheet(pairs, titles, classes, heading).save(folder / "sheet.png")
    return folder / "sheet.png"
