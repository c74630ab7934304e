"""Label Studio's export of brushes as PNGs: a file for each label of a picture, of which one mask is drawn."""

import re
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

from ..data.images import open_image
from ..data.lists import find_images
from ..data.pairing import HASHES, Files, remove_tag
from ..data.trees import Pairs
from ..errors import DataError, join_first
from ..evaluation.pictures import palette_png
from .class_files import read_json

# task, annotation, who drew it, name of the control, label, number of the brush stroke
LAYER = re.compile(r"task-(\d+)-annotation-(\d+)-by-[^-]*-[^-]+-(.+)-\d+")


def draw_label_studio(root: Path, folder: Path) -> Pairs | None:
    """Draws a mask of every picture into a folder, of its newest annotation; None if no such files are there.

    Where labels overlap, the one that comes later in the alphabet lies on top.
    """
    files = find_images(root, flat=False)
    layers = {path: match for path in files.values() if (match := LAYER.fullmatch(path.stem)) and path.suffix.lower() == ".png"}
    if not layers:
        return None
    photos = {name: path for name, path in files.items() if path not in layers}
    tasks: dict[int, dict[int, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for path, match in layers.items():
        tasks[int(match[1])][int(match[2])].append(path)
    labels = sorted({match[3] for match in layers.values()})
    ids = {"background": 0, **{label: index for index, label in enumerate(labels, 1)}}
    names = task_names(root, photos)
    spare = [drawn[max(drawn)][0] for task, drawn in tasks.items() if task not in names]
    pairs = Pairs(photos, {}, spare, layout="Label Studio")
    for task, drawn in tasks.items():
        if name := names.get(task):
            pairs.masks[name] = folder / f"{name}.png"
            pairs.masks[name].parent.mkdir(parents=True, exist_ok=True)
            palette_png(draw_layers({path: ids[layers[path][3]] for path in drawn[max(drawn)]}), pairs.masks[name], ids)
    if not pairs.masks:
        raise DataError(
            f"{root} holds labels of Label Studio, but nothing says which image the tasks {join_first(sorted(tasks))} are: export"
            " them as JSON, too, and put that file and the images beside them, or call an image by its task, 1.jpg"
        )
    return pairs


def draw_layers(layers: Mapping[Path, int]) -> np.ndarray:
    """The mask, (H, W) uint8, of files that are white where something is."""
    mask = None
    for path, index in sorted(layers.items(), key=lambda layer: layer[1]):
        with open_image({"path": str(path), "bytes": None}, "mask") as picture:
            drawn = np.asarray(picture.convert("L")) > 127
        mask = np.zeros(drawn.shape, np.uint8) if mask is None else mask
        if mask.shape != drawn.shape:
            raise DataError(f"{path} has another size than the other labels of its task; export them again")
        mask[drawn] = index
    return mask


def task_names(root: Path, photos: Files) -> dict[int, str]:
    """Task -> name of its image: by an export as JSON in the folder, else by images that are called by their task."""
    by_file = {file: name for name, path in photos.items() for file in (path.name, remove_tag(path.name, HASHES[1]))}
    called = {name: re.fullmatch(r"(?:task[-_])?(\d+)", path.stem) for name, path in photos.items()}
    found = {int(match[1]): name for name, match in called.items() if match}
    for path in (*sorted(root.glob("*.json")), *sorted(root.glob("*/*.json"))):
        with suppress(DataError):
            for task in read_json(path, list[dict[str, Any]], ""):
                for value in (task.get("data") or task).values() if isinstance(task.get("id"), int) else ():
                    file = unquote(value).rpartition("/")[2] if isinstance(value, str) else ""
                    if name := by_file.get(file) or by_file.get(remove_tag(file, HASHES[1])):
                        found[task["id"]] = name
    return found
