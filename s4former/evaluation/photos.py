"""Photos without masks: finding and reading them, and writing their class maps, overlays and a contact sheet."""

import glob
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterable, Iterator, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..config import IGNORE_INDEX
from ..data.images import IMAGE_ENDINGS, EncodedImage, read_image
from ..data.lists import find_images
from ..data.masks import MASK_FOLDERS
from ..data.pairing import take_masks
from ..data.prefetch import prefetch
from ..errors import DataError
from .pictures import contact_sheet, overlay, palette_png

OVERLAY_SIZE = (2048, 2048)  # the largest, pixels
SHEET_PHOTOS = 20  # on the contact sheet, at most
AHEAD = 2  # photos that are decoded in advance; each takes its memory


@dataclass(frozen=True)
class Photo:
    """image: (3, H, W) uint8, upright. id: what its results are called."""

    image: Tensor
    id: str


def find_photos(pattern: str) -> dict[str, EncodedImage]:
    """The image files of a file name, a folder (with all below it) or a glob by id, in order of their paths.

    In a folder, X_mask.png beside X.jpg, and what lies in a masks/ (labels/, annotations/) beside images/ or beside photos,
    is a mask, and no photo.
    An id is the path below the folder that all have in common, without suffix unless two files differ in nothing else;
    "/" becomes "__". A DataError if there is no image.
    """
    path = Path(pattern).expanduser()
    if path.is_dir():
        files = find_images(path, flat=False)
        take_masks(files)
        found = files.values()
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
    root = path if path.is_dir() else Path(os.path.commonpath([file.parent for file in found]))
    files = {file.relative_to(root): file for file in found}
    times = Counter(file.with_suffix("") for file in files)
    names = [file.with_suffix("") if times[file.with_suffix("")] == 1 else file for file in files]
    return {file_name(name.as_posix()): {"path": str(file), "bytes": None} for name, file in zip(names, found)}


def file_name(id: str) -> str:
    """Ids of nested folders stay apart, and inside the folder of the results."""
    return id.replace("/", "__")


def read_photos(
    photos: Iterable[tuple[str, EncodedImage]], unreadable: list[str], levels: tuple[float, float] = (0.0, 0.0)
) -> Iterator[Photo]:
    """The photos that can be read, in order; the message on every other is added to `unreadable`. levels: `data.levels`."""

    def decode(photo: tuple[str, EncodedImage]) -> Photo | DataError:
        try:
            image = read_image(photo[1], levels)
        except DataError as error:
            return error
        return Photo(torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous(), photo[0])

    for photo in prefetch(decode, photos, AHEAD):
        if isinstance(photo, Photo):
            yield photo
        else:
            unreadable.append(str(photo))


def save_maps(folder: Path, items: Sequence[Any], maps: Tensor, classes: Sequence[str]) -> None:
    """FOLDER/masks/ID.png, class ids (B, H, W) under the palette of PASCAL VOC, and FOLDER/overlays/ID.jpg to look at.

    items: with `image` (3, H, W) uint8, in the size of their maps, and `id`.
    """
    for name in ("masks", "overlays"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for item, mask in zip(items, maps.to(torch.uint8).cpu().numpy()):
        name = file_name(item.id)
        palette_png(mask, folder / "masks" / f"{name}.png", {**dict(zip(classes, range(len(classes)))), "": IGNORE_INDEX})
        picture, shown = Image.fromarray(item.image.permute(1, 2, 0).numpy()), Image.fromarray(mask)
        picture.thumbnail(OVERLAY_SIZE, Image.Resampling.LANCZOS, reducing_gap=None)
        shown.thumbnail(OVERLAY_SIZE, Image.Resampling.NEAREST, reducing_gap=None)
        picture = overlay(np.asarray(picture), np.asarray(shown), class_names=classes)
        picture.save(folder / "overlays" / f"{name}.jpg", quality=92)


def draw_sheet(
    folder: Path, photos: dict[str, EncodedImage], classes: Sequence[str], levels: tuple[float, float] = (0.0, 0.0)
) -> None:
    """FOLDER/sheet.png: photo beside class map for photos spread over the list, if any of them has a map."""
    names, pairs = [name for name in photos if (folder / "masks" / f"{name}.png").is_file()], []
    for index in sorted({round(place) for place in np.linspace(0, len(names) - 1, SHEET_PHOTOS)}) if names else []:
        image = read_image(photos[names[index]], levels)
        image.thumbnail((600, 600), Image.Resampling.LANCZOS, reducing_gap=None)
        with Image.open(folder / "masks" / f"{names[index]}.png") as mask:
            mask.thumbnail((600, 600), Image.Resampling.NEAREST, reducing_gap=None)
            pairs.append([np.asarray(image), np.asarray(mask)])
    heading = f"{len(names)} images" if len(pairs) == len(names) else f"{len(pairs)} of {len(names)} images"
    if len(pairs) > 3:  # two pairs in a row
        pairs = [left + right for left, right in zip(pairs[::2], pairs[1::2])]
    if pairs:
        contact_sheet(pairs, ["image", "prediction"] * (len(pairs[0]) // 2), classes, heading).save(folder / "sheet.png")
