"""Photos without masks: reading them, and writing their class maps, overlays and a contact sheet."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Iterable, Iterator, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..config import IGNORE_INDEX, Config, Data
from ..data.images import EncodedImage, read_image
from ..data.loader import prefetch
from ..errors import DataError
from .inference import batches_of_one_size
from .photo_files import unique_names
from .pictures import contact_sheet, display_colours, overlay, palette_png, spread

OVERLAY_SIZE = (2048, 2048)  # the largest, pixels
SHEET_PHOTOS = 20  # on the contact sheet, at most
AHEAD = 2  # photos that are decoded in advance; each takes its memory


@dataclass(frozen=True)
class Photo:
    """image: (3, H, W) uint8, upright. id: what its results are called."""

    image: Tensor
    id: str


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


def photo_batches(
    photos: Iterable[tuple[str, EncodedImage]], unreadable: list[str], config: Config
) -> Iterator[tuple[list[Photo], Tensor]]:
    """`read_photos` in groups of one size, and the images of each as a batch (B, 3, H, W)."""
    # windows of one image fill a batch by themselves; images need not wait for others of their size
    batch = 1 if config.evaluation.mode == "sliding" else config.evaluation.batch
    for items in batches_of_one_size(read_photos(photos, unreadable, config.data.levels), batch):
        yield items, torch.stack([item.image for item in items])


def save_maps(folder: Path, items: Sequence[Any], maps: Tensor, names: dict[str, str], classes: Sequence[str], data: Data) -> None:
    """FOLDER/masks/NAME.png, class ids (B, H, W), and FOLDER/overlays/NAME.jpg to look at.

    items: with `image` (3, H, W) uint8, in the size of their maps, and `id`. names: `unique_names`.
    data: its colours or palette give the colours, if it has such; else they are PASCAL VOC's.
    """
    colours = display_colours(classes, data) if data.colours or data.palette else None
    for name in ("masks", "overlays"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for item, mask in zip(items, maps.to(torch.uint8).cpu().numpy()):
        name = names[item.id]
        palette_png(mask, folder / "masks" / f"{name}.png", {**dict(zip(classes, range(len(classes)))), "": IGNORE_INDEX}, colours, predicted=True)
        picture, shown = Image.fromarray(item.image.permute(1, 2, 0).numpy()), Image.fromarray(mask)
        picture.thumbnail(OVERLAY_SIZE, Image.Resampling.LANCZOS, reducing_gap=None)
        shown.thumbnail(OVERLAY_SIZE, Image.Resampling.NEAREST, reducing_gap=None)
        picture = overlay(np.asarray(picture), np.asarray(shown), class_names=classes, data=data)
        picture.save(folder / "overlays" / f"{name}.jpg", quality=92)


def label_id_names(ids: Iterable[str]) -> dict[str, str]:
    """The name, without folders, of the file of label ids of every image; a `DataError` if two have the same."""
    names = {id: PurePosixPath(id).name for id in ids}
    times = Counter(names.values())
    twice = [id for id, name in names.items() if times[name] == max(times.values())] if len(times) < len(names) else []
    if twice:
        raise DataError(f"--label-ids names files as the images, and {twice[0]} and {twice[1]} have one name; give a folder at a time")
    return names


def save_label_ids(folder: Path, items: Sequence[Any], maps: Tensor, names: dict[str, str], raw: np.ndarray) -> None:
    """FOLDER/label_ids/NAME.png, grey: maps (B, H, W) of class ids as the ids of the data's own masks (`raw_ids`)."""
    (folder / "label_ids").mkdir(parents=True, exist_ok=True)
    for item, mask in zip(items, maps.cpu().numpy()):
        Image.fromarray(raw[mask].astype(np.uint8 if raw.max() <= 255 else np.uint16)).save(folder / "label_ids" / f"{names[item.id]}.png")


def draw_sheet(folder: Path, photos: dict[str, EncodedImage], classes: Sequence[str], data: Data) -> None:
    """FOLDER/sheet.png: photo beside class map for photos spread over the list, if any of them has a map."""
    names, pairs = [each for each in unique_names(photos).items() if (folder / "masks" / f"{each[1]}.png").is_file()], []
    for id, name in (names[index] for index in spread(len(names), SHEET_PHOTOS)):
        image = read_image(photos[id], data.levels)
        image.thumbnail((600, 600), Image.Resampling.LANCZOS, reducing_gap=None)
        with Image.open(folder / "masks" / f"{name}.png") as mask:
            mask.thumbnail((600, 600), Image.Resampling.NEAREST, reducing_gap=None)
            pairs.append([np.asarray(image), np.asarray(mask)])
    heading = f"{len(names)} images" if len(pairs) == len(names) else f"{len(pairs)} of {len(names)} images"
    if pairs:
        contact_sheet(pairs, ["image", "prediction"], classes, heading, data).save(folder / "sheet.png")
