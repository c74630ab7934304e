"""The images worth labelling next: as a sheet to look at, and as copies with the predictions as labels to correct."""

import json
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..config import IGNORE_INDEX, Data
from ..data.images import EncodedImage, is_scene, read_image
from ..data.sources import Sources
from ..evaluation.photo_files import file_name
from ..evaluation.pictures import contact_sheet, display_colours, has_background
from ..files import write_text
from ..rasterize.outlines import polygons_of
from .pool_masks import Predictor
from .pool_ranking import Pool, doubted_classes

SHOWN = 24  # on the sheet
SPECKLE = 2e-4  # of an image: smaller regions of a prediction are no polygon
LABELME = "5.5.0"  # the version that the files say they are of


def ranked_images(
    pool: Pool, ranked: Sequence[tuple[int, float]], predictor: Predictor, data: Data, sources: Sources
) -> Iterator[tuple[int, EncodedImage, np.ndarray, np.ndarray, np.ndarray]]:
    """Place in the pool, file, image (H, W, 3), classes (H, W), and where they are pseudo labels, of each ranked image."""
    rows = {id: place for place, id in enumerate(sources.unlabeled["id"][:])}
    for place, _ in ranked:
        file = sources.unlabeled[rows[pool.ids[place]]]["image"]
        image = np.array(read_image(file, data.levels))
        labels, confidence = (each[0] for each in predictor(torch.from_numpy(image).permute(2, 0, 1)[None]))
        sure = confidence > predictor.thresholds[labels]
        yield place, file, image, labels.cpu().numpy().astype(np.uint8), sure.cpu().numpy()


def draw_sheet(
    path: Path, pool: Pool, ranked: Sequence[tuple[int, float]], predictor: Predictor, data: Data, sources: Sources
) -> None:
    """The first images of the list beside their pseudo labels, with rank, name and what the doubt is about."""
    cells, captions = [], []
    for rank, (place, _, image, labels, sure) in enumerate(ranked_images(pool, ranked[:SHOWN], predictor, data, sources), start=1):
        cells.append([image, np.where(sure, labels, IGNORE_INDEX)])
        about = ", ".join(doubted_classes(pool, place, sources.classes)[:2])
        captions.append([f"{rank}  {pool.ids[place]}", f"{pool.doubts[place].sum():.0%} doubt: {about}"])
    if cells:
        heading = f"Worth labelling next: the first {len(cells)} of {len(pool.ids)}"
        titles = ["image", "what the teacher is sure of"]
        contact_sheet(cells, titles, sources.classes, heading, data, captions).save(path)


def copy_for_tools(
    folder: Path, pool: Pool, ranked: Sequence[tuple[int, float]], predictor: Predictor, data: Data, sources: Sources
) -> None:
    """JPEGImages/ with polygons of LabelMe beside the images; the masks as CVAT's "Segmentation mask 1.1", also as cvat.zip."""
    images, masks, names = folder / "JPEGImages", folder / "SegmentationClass", []
    for each in (images, masks, folder / "ImageSets" / "Segmentation"):
        each.mkdir(parents=True, exist_ok=True)
    classes, colours = sources.classes, display_colours(sources.classes, data)[: len(sources.classes)]
    colours[: int(has_background(classes))] = 0  # CVAT takes black for what is nothing
    for place, file, image, labels, _ in ranked_images(pool, ranked, predictor, data, sources):
        names.append(file_name(pool.ids[place]))
        name = copy_image(file, image, images / names[-1])
        write_text(images / f"{names[-1]}.json", json.dumps(labelme(labels, classes, name), indent=1) + "\n")
        Image.fromarray(colours[labels]).save(masks / f"{names[-1]}.png")
    lines = [f"{name}:{','.join(map(str, colour))}::" for name, colour in zip(classes, colours.tolist())]
    background = [] if has_background(classes) else ["background:0,0,0::"]
    write_text(folder / "labelmap.txt", "\n".join(["# label:color_rgb:parts:actions", *background, *lines]) + "\n")
    write_text(folder / "ImageSets" / "Segmentation" / "default.txt", "".join(f"{name}\n" for name in names))
    with zipfile.ZipFile(folder / "cvat.zip", "w") as archive:
        for path in (folder / "labelmap.txt", *sorted((folder / "ImageSets").rglob("*.txt")), *sorted(masks.iterdir())):
            archive.write(path, path.relative_to(folder))


def copy_image(file: EncodedImage, image: np.ndarray, target: Path) -> str:
    """Copies an image file as it is; returns its name. target: without ending."""
    if is_scene(file) or file["bytes"] is not None:
        Image.fromarray(image).save(target.with_name(f"{target.name}.png"))
        return f"{target.name}.png"
    name = f"{target.name}{Path(file['path']).suffix}"
    shutil.copyfile(file["path"], target.with_name(name))
    return name


def labelme(labels: np.ndarray, classes: Sequence[str], image: str) -> dict[str, Any]:
    """A mask (H, W) as the content of a LabelMe file; nothing is drawn for background that no other region encloses."""
    height, width = labels.shape
    least = max(16, int(SPECKLE * labels.size))
    shapes = [
        {"label": classes[value], "points": corners.tolist(), "group_id": None, "shape_type": "polygon", "flags": {}}
        for value, corners in polygons_of(labels, least)
        if not (value == 0 and has_background(classes) and touches_border(corners, height, width))
    ]
    return {
        "version": LABELME, "flags": {}, "shapes": shapes, "imagePath": image, "imageData": None, "imageHeight": height, "imageWidth": width,
    }  # fmt: skip


def touches_border(corners: np.ndarray, height: int, width: int) -> bool:
    return bool((corners == 0).any() or (corners == (width, height)).any())
