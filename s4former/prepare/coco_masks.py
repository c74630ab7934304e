"""COCO's instance annotations as masks of class ids: 0 = no thing, 1 to 80 = the things in COCO's order.

Those of an image are painted over each other: crowd regions first, then from the largest area to the smallest, of equal
areas in the order of the file. A pixel belongs to a polygon if its centre does; the polygons of one annotation are joined.
A crowd region gets the class of what it is a crowd of. The masks that UniMatch hands out come without the rule they were
made by, and may differ from these where things overlap and at their rims.
"""

import json
import multiprocessing
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ..data.class_names import COCO_CLASSES
from ..data.progress import progress
from ..errors import DataError
from ..files import writing_file


class Task(NamedTuple):
    """One mask to write."""

    mask: Path
    height: int
    width: int
    regions: tuple[tuple[int, Any], ...]  # (class, segmentation) from bottom to top


# ---- from an annotation file to tasks


def instance_tasks(path: Path, folder: Path) -> list[Task]:
    """A task for every image of an instances_*.json; masks go to `folder`, classes in ascending order of the category ids."""
    print(f"reading {path}")
    try:
        content = json.loads(path.read_bytes())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path} is not valid JSON ({error}); unpack the annotations again") from None
    if missing := [key for key in ("images", "annotations", "categories") if key not in content]:
        raise DataError(f"{path} has no {missing[0]!r}; give instances_*2017.json")
    things = sorted((each["id"], each["name"]) for each in content["categories"])
    if tuple(name for _, name in things) != COCO_CLASSES[1:]:
        raise DataError(
            f"{path} has {len(things)} categories, which are not COCO's 80 in their order; data of your own are read"
            " with data.source=folder"
        )
    classes = {category: index for index, (category, _) in enumerate(things, start=1)}
    by_image = defaultdict(list)
    for annotation in content["annotations"]:
        by_image[annotation["image_id"]].append(annotation)
    tasks = []
    for image in content["images"]:
        # crowds at the bottom, then large before small; Python's sort keeps the order of the file among equals
        order = sorted(by_image[image["id"]], key=lambda each: (not each.get("iscrowd", 0), -each["area"]))
        regions = tuple((classes[each["category_id"]], each["segmentation"]) for each in order)
        mask = folder / f"{Path(image['file_name']).stem}.png"
        tasks.append(Task(mask, image["height"], image["width"], regions))
    return tasks


# ---- from a task to a mask


def draw_mask(task: Task) -> np.ndarray:
    """(H, W) uint8, 0 to 80."""
    mask = np.zeros((task.height, task.width), np.uint8)
    for index, segmentation in task.regions:
        if isinstance(segmentation, dict):
            mask[decode_rle(segmentation)] = index
        else:
            for polygon in segmentation:
                fill_polygon(mask, polygon, index)
    return mask


def fill_polygon(mask: np.ndarray, polygon: Sequence[float], value: int) -> None:
    """Sets the pixels of `mask` whose centres lie in a polygon x0, y0, x1, y1 ...; pixel 0 reaches from 0 to 1.

    Exact, by the even-odd rule: each edge inverts the pixels to the right of it, row by row. pycocotools rounds corners
    to a fifth of a pixel, which moves 0.2 to 0.4 % of the pixels of usual shapes and 12 % of those of thin ones; Pillow
    adds the outline, which makes things 2 to 3 % larger.
    """
    points = np.asarray(polygon, float).reshape(-1, 2) - 0.5  # so that centres have whole numbers
    top, bottom = np.clip([np.ceil(points[:, 1].min()), np.ceil(points[:, 1].max())], 0, len(mask)).astype(int)
    ends = np.roll(points, -1, axis=0)
    upper, lower = (np.where((points[:, 1] <= ends[:, 1])[:, None], *pair) for pair in ((points, ends), (ends, points)))
    first, last = (np.clip(np.ceil(end[:, 1]), top, bottom).astype(int) for end in (upper, lower))  # rows it crosses
    edges = np.repeat(np.arange(len(points)), last - first)
    rows = np.arange(len(edges)) - np.repeat(np.cumsum(last - first) - last, last - first)
    (x, y), (right, below) = upper[edges].T, lower[edges].T
    columns = np.ceil(x + (rows - y) / (below - y) * (right - x)).clip(0, mask.shape[1]).astype(int)
    inversions = np.zeros((bottom - top, mask.shape[1] + 1), np.int32)
    np.add.at(inversions, (rows - top, columns), 1)
    mask[top:bottom][np.cumsum(inversions, axis=1)[:, :-1] % 2 == 1] = value


def decode_rle(segmentation: dict[str, Any]) -> np.ndarray:
    """(H, W) bool of a run-length code, whose counts are numbers or COCO's string."""
    try:
        from pycocotools import mask as coco
    except ImportError:
        raise DataError(
            "COCO's run-length codes, such as those of crowd regions, are read by pycocotools, which is not installed; pip"
            ' install "s4former[coco]"'
        ) from None
    (height, width), counts = segmentation["size"], segmentation["counts"]
    if isinstance(counts, list) and sum(counts) != height * width:
        raise ValueError(f"run lengths of {sum(counts)} pixels for a region of {width}x{height}")
    code = coco.frPyObjects(segmentation, height, width) if isinstance(counts, list) else segmentation
    mask = coco.decode(code)
    if mask.sum() != coco.area(code):  # after too short a string, the rest of the mask is whatever the memory held
        raise ValueError(f"run lengths of fewer than the {height * width} pixels of a region of {width}x{height}")
    return mask.astype(bool)


# ---- writing


def save_ids(path: Path, ids: np.ndarray) -> None:
    """Writes (H, W) uint8 ids as a grey PNG, under another name first, so that a file that is there is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing_file(path) as beside:
        Image.fromarray(ids).save(beside)


def write_mask(task: Task) -> None:
    try:
        mask = draw_mask(task)
    except DataError:
        raise
    except (ValueError, KeyError, TypeError, IndexError, OverflowError) as error:
        raise DataError(f"the annotations of {task.mask.stem} cannot be drawn: {error}; get the file again") from None
    save_ids(task.mask, mask)


def write_masks(tasks: Iterable[Task], processes: int) -> int:
    """Writes the masks that are not there yet, in parallel; returns how many."""
    tasks = [task for task in tasks if not task.mask.exists()]
    with multiprocessing.get_context("spawn").Pool(processes) if processes > 1 else nullcontext() as pool:
        drawn = pool.imap_unordered(write_mask, tasks, chunksize=16) if pool else map(write_mask, tasks)
        for _ in progress(drawn, "masks", len(tasks)):
            pass
    return len(tasks)
