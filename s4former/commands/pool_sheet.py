"""The images worth labelling next: as a sheet to look at, and as copies with the predictions as labels to correct."""

import json
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..config import IGNORE_INDEX, Data
from ..data.images import EncodedImage, is_scene, read_image
from ..data.sources import Sources
from ..evaluation.photo_files import unique_names
from ..evaluation.pictures import contact_sheet, display_colours, has_background
from ..files import write_text
from ..rasterize.outlines import polygons_of
from .pool_masks import Predictor
from .pool_ranking import Pool, doubted_classes

SHOWN = 24  # on the sheet
SPECKLE = 2e-4  # of an image: smaller regions of a prediction are no polygon
LABELME = "5.5.0"  # the version that the files say they are of


@dataclass(frozen=True)
class RankedImage:
    """An image of the list. place: in the pool. name: of its files. pixels: (H, W, 3) uint8. labels: (H, W) uint8; pseudo: where they count."""

    place: int
    name: str
    file: EncodedImage
    pixels: np.ndarray
    labels: np.ndarray
    pseudo: np.ndarray


def ranked_images(
    pool: Pool, ranked: Sequence[tuple[int, float]], predictor: Predictor, data: Data, sources: Sources
) -> Iterator[RankedImage]:
    """Predicts the images of the list once more, one after the other."""
    names = unique_names(sources.unlabeled["id"][:])
    rows = {id: row for row, id in enumerate(names)}
    for place, _ in ranked:
        file = sources.unlabeled[rows[pool.ids[place]]]["image"]
        pixels = np.array(read_image(file, data.levels))
        labels, _, pseudo = (each[0] for each in predictor(torch.from_numpy(pixels).permute(2, 0, 1)[None]))
        yield RankedImage(place, names[pool.ids[place]], file, pixels, labels.astype(np.uint8), pseudo)


def draw_sheet(path: Path, images: Iterable[RankedImage], pool: Pool, classes: Sequence[str], data: Data) -> None:
    """The first images of the list beside their pseudo labels, with rank, name and what the doubt is about."""
    cells, captions = [], []
    for rank, image in enumerate(images, start=1):
        cells.append([image.pixels, np.where(image.pseudo, image.labels, IGNORE_INDEX)])
        about = ", ".join(doubted_classes(pool, image.place, classes)[:2])
        captions.append([f"{rank}  {pool.ids[image.place]}", f"{pool.doubts[image.place].sum():.0%} doubt: {about}"])
    if cells:
        heading = f"Worth labelling next: the first {len(cells)} of {len(pool.ids)}"
        contact_sheet(cells, ["image", "what the teacher is sure of"], classes, heading, data, captions).save(path)


def copy_for_tools(folder: Path, ranked: Iterable[RankedImage], classes: Sequence[str], data: Data) -> None:
    """JPEGImages/ with polygons of LabelMe beside the images; the masks as CVAT's "Segmentation mask 1.1", also as cvat.zip."""
    images, masks, names = folder / "JPEGImages", folder / "SegmentationClass", []
    for each in (images, masks, folder / "ImageSets" / "Segmentation"):
        each.mkdir(parents=True, exist_ok=True)
    colours = cvat_colours(classes, data)
    for image in ranked:
        names.append(image.name)
        name = copy_image(image, images / image.name)
        write_text(images / f"{image.name}.json", json.dumps(labelme(image.labels, classes, name), indent=1) + "\n")
        Image.fromarray(colours[image.labels]).save(masks / f"{image.name}.png")
    lines = [f"{name.replace(':', ' ')}:{','.join(map(str, colour))}::" for name, colour in zip(classes, colours.tolist())]
    background = [] if has_background(classes) else ["background:0,0,0::"]
    write_text(folder / "labelmap.txt", "\n".join(["# label:color_rgb:parts:actions", *background, *lines]) + "\n")
    write_text(folder / "ImageSets" / "Segmentation" / "default.txt", "".join(f"{name}\n" for name in names))
    with zipfile.ZipFile(folder / "cvat.zip", "w") as archive:
        for path in (folder / "labelmap.txt", *sorted((folder / "ImageSets").rglob("*.txt")), *sorted(masks.iterdir())):
            archive.write(path, path.relative_to(folder))


def cvat_colours(classes: Sequence[str], data: Data) -> np.ndarray:
    """(K, 3) uint8, by which CVAT tells classes apart: the data's own, unless two are the same or a class has that of background, black."""
    for own in (data, None):
        colours = display_colours(classes, own)[: len(classes)]
        colours[: int(has_background(classes))] = 0
        nothing = [] if has_background(classes) else [(0, 0, 0)]
        if len({*map(tuple, colours.tolist()), *nothing}) == len(classes) + len(nothing):
            break
    return colours


def copy_image(image: RankedImage, target: Path) -> str:
    """Copies the file as it is, or writes pixels that have none; returns its name. target: without ending."""
    if is_scene(image.file) or image.file["bytes"] is not None:
        name = f"{target.name}.png"
        Image.fromarray(image.pixels).save(target.with_name(name))
    else:
        name = f"{target.name}{Path(image.file['path']).suffix}"
        shutil.copyfile(image.file["path"], target.with_name(name))
    return name


def labelme(labels: np.ndarray, classes: Sequence[str], image: str) -> dict[str, Any]:
    """A mask (H, W) as the content of a LabelMe file; nothing is drawn for background that no other region encloses."""
    height, width = labels.shape
    shapes = [
        {"label": classes[value], "points": corners.tolist(), "group_id": None, "shape_type": "polygon", "flags": {}}
        for value, corners in polygons_of(labels, max(16, int(SPECKLE * labels.size)))
        if not (value == 0 and has_background(classes) and ((corners == 0) | (corners == (width, height))).any())
    ]
    return {
        "version": LABELME, "flags": {}, "shapes": shapes, "imagePath": image, "imageData": None, "imageHeight": height, "imageWidth": width,
    }  # fmt: skip
