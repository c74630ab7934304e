"""COCO's annotations as masks of class ids: 0 = no thing, 1 to 80 = the things in COCO's order.

From instance annotations (instances_*2017.json): every annotation is painted with its class, over what lies there
already, in this order: crowd regions first, then from the largest area to the smallest, and of equal areas in the order
of the file. So a cup on a table stays a cup, and a person in front of a crowd does not change. A pixel belongs to a
polygon if its centre does; the polygons of one annotation are joined. Crowd regions count as what they are a crowd of.

From panoptic annotations (panoptic_*2017.json and its PNGs): a pixel has one segment, so nothing overlaps. Segments of
things get their class, crowds too; stuff and what has no segment get 0.

The masks that UniMatch hands out come without the rule they were made by. The two rules here differ from each other,
and may differ from theirs, where things overlap and at their rims, so say with a result which masks it was measured on.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ..data.class_names import COCO_CLASSES
from ..data.reading import BROKEN
from ..errors import DataError
from .mask_files import in_parallel, save_ids


class Task(NamedTuple):
    """One mask to write."""

    mask: Path
    height: int
    width: int
    pieces: tuple[tuple[int, Any], ...]  # (class, segmentation) from bottom to top, or (class, segment id)
    segments: Path | None = None  # PNG of segment ids; None for instance annotations


# ---- from annotation files to tasks


def read_annotations(path: Path) -> dict[str, Any]:
    """The JSON of an annotation file; `DataError` if it is none."""
    print(f"reading {path}")
    try:
        content = json.loads(path.read_bytes())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path} is not valid JSON ({error}); unpack the annotations again") from None
    lost = [key for key in ("images", "annotations", "categories") if key not in content]
    if lost:
        raise DataError(f"{path} has no {lost[0]!r}; give instances_*2017.json or panoptic_*2017.json")
    return content


def classes_of_things(categories: Sequence[dict[str, Any]], path: Path) -> dict[int, int]:
    """Category id -> 1 to 80, things in ascending order of their ids, which is the order of our names."""
    things = sorted((each["id"], each["name"]) for each in categories if each.get("isthing", 1))
    names = [name for _, name in things]
    if names != list(COCO_CLASSES[1:]):
        wrong = next((pair for pair in zip(names, COCO_CLASSES[1:]) if pair[0] != pair[1]), ("nothing", "a thing"))
        raise DataError(
            f"{path} has {len(names)} categories of things, the first other one is {wrong[0]!r} instead of"
            f" {wrong[1]!r}; COCO 2017 has its 80 things in their order; data of your own are read with"
            " data.source=folder"
        )
    return {category: index for index, (category, _) in enumerate(things, start=1)}


def instance_tasks(path: Path, folder: Path) -> list[Task]:
    """A task for every image of an instances_*.json; masks go to `folder`."""
    content = read_annotations(path)
    classes = classes_of_things(content["categories"], path)
    by_image = defaultdict(list)
    for annotation in content["annotations"]:
        by_image[annotation["image_id"]].append(annotation)
    tasks = []
    for image in content["images"]:
        # crowds at the bottom, then large before small; Python's sort keeps the order of the file among equals
        order = sorted(by_image[image["id"]], key=lambda each: (not each.get("iscrowd", 0), -each["area"]))
        pieces = tuple((classes[each["category_id"]], each["segmentation"]) for each in order)
        name = Path(image["file_name"]).stem
        tasks.append(Task(folder / f"{name}.png", image["height"], image["width"], pieces))
    return tasks


def panoptic_tasks(path: Path, folder: Path) -> list[Task]:
    """A task for every image of a panoptic_*.json, whose PNGs lie in the folder of the same name beside it."""
    content = read_annotations(path)
    classes = classes_of_things(content["categories"], path)
    segments = path.with_suffix("")
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    tasks = []
    for annotation in content["annotations"]:
        things = [each for each in annotation["segments_info"] if each["category_id"] in classes]
        pieces = tuple((classes[each["category_id"]], each["id"]) for each in things)
        name = annotation["file_name"]
        tasks.append(Task(folder / name, *sizes[annotation["image_id"]], pieces, segments / name))
    return tasks


# ---- from a task to a mask


def mask_of(task: Task) -> np.ndarray:
    """(H, W) uint8, 0 to 80."""
    if task.segments is not None:
        return mask_of_segments(task)
    mask = np.zeros((task.height, task.width), np.uint8)
    for number, segmentation in task.pieces:
        if isinstance(segmentation, dict):
            mask[decode_rle(segmentation)] = number
        else:
            for polygon in segmentation:
                paint(mask, polygon, number)
    return mask


def mask_of_segments(task: Task) -> np.ndarray:
    """The class of each pixel's segment; a PNG holds segment ids as red + 256 green + 65536 blue."""
    try:
        with Image.open(task.segments) as picture:
            colours = np.asarray(picture.convert("RGB")).astype(np.int64)
    except BROKEN as error:
        raise DataError(f"{task.segments} cannot be read: {error}; unpack the panoptic PNGs again") from None
    if colours.shape[:2] != (task.height, task.width):
        raise DataError(
            f"{task.segments} is {colours.shape[1]}x{colours.shape[0]}, but its annotation says"
            f" {task.width}x{task.height} (width x height); unpack the panoptic PNGs again"
        )
    found, places = np.unique(colours @ (1, 256, 65536), return_inverse=True)
    number_of = {segment: number for number, segment in task.pieces}
    numbers = np.array([number_of.get(segment, 0) for segment in found.tolist()], np.uint8)
    return numbers[places].reshape(task.height, task.width)


def paint(mask: np.ndarray, polygon: Sequence[float], number: int) -> None:
    """Sets the pixels of `mask` whose centres lie in a polygon x0, y0, x1, y1 ...; pixel 0 reaches from 0 to 1.

    Pillow's polygons hold their rim too, which makes things 2 to 3 % larger; this is exact. Each edge turns the pixels
    to the right of it over, row by row, so that those are inside which are turned over an odd number of times.
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
    turns = np.zeros((bottom - top, mask.shape[1] + 1), np.int32)
    np.add.at(turns, (rows - top, columns), 1)
    mask[top:bottom][np.cumsum(turns, axis=1)[:, :-1] % 2 == 1] = number


def decode_rle(segmentation: dict[str, Any]) -> np.ndarray:
    """(H, W) bool of a run-length code: lengths of 0s and 1s in turn, down the columns from left to right."""
    height, width = segmentation["size"]
    counts = segmentation["counts"]
    if isinstance(counts, str):
        counts = decode_counts(counts)
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape(width, height).T


def decode_counts(text: str) -> list[int]:
    """Run lengths out of COCO's string: five bits a character from 48 on, low bits first; bit 6 says that more follow.

    From the fourth number on, it is the difference from the number two before.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text.encode():
        code = character - 48
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:  # the sign
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    return counts


# ---- writing


def write_mask(task: Task) -> None:
    """Draws a mask and writes it."""
    try:
        mask = mask_of(task)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"the annotations of {task.mask.stem} cannot be drawn: {error}; get the file again") from None
    save_ids(task.mask, mask)


def write_masks(tasks: Iterable[Task], processes: int) -> int:
    """Writes the masks that are not there yet, in parallel; how many those were."""
    tasks = [task for task in tasks if not task.mask.exists()]
    in_parallel(write_mask, tasks, processes, "masks")
    return len(tasks)
