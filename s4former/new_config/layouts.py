"""What data sets say about their ids; images and masks that are told by patterns or a list; the labels of Label Studio."""

import os
import re
from collections import defaultdict
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import numpy as np

from ..config import IGNORE_INDEX
from ..data.class_names import CITYSCAPES_CLASSES, CITYSCAPES_TRAIN_IDS, VOC_CLASSES
from ..data.images import open_image
from ..data.lists import find_file, find_images, list_lines, strip_endings, with_slashes
from ..data.pairing import HASHES, Files, remove_tag
from ..data.trees import Pairs
from ..errors import DataError, join_first
from ..evaluation.pictures import palette_png
from .class_files import Classes, read_json

LOVEDA_CLASSES = ("background", "building", "road", "water", "barren", "forest", "agriculture")
CITYSCAPES_IDS = {int(raw): CITYSCAPES_CLASSES[index] for raw, index in CITYSCAPES_TRAIN_IDS.items() if index != IGNORE_INDEX}
NO_CITYSCAPES_CLASS = dict.fromkeys({*range(-1, 34)} - {*CITYSCAPES_IDS}, "none of the 19 classes of Cityscapes")

# task, annotation, who drew it, name of the control, label, number of the brush stroke
LAYER = re.compile(r"task-(\d+)-annotation-(\d+)-by-[^-]*-[^-]+-(.+)-\d+")


class DataSet(NamedTuple):
    """A data set in a layout that others have too: all its masks have such names, and no ids but these and 255."""

    layout: str
    stems: str  # regular expression of the names of all masks
    ids: Collection[int]
    names: dict[int, str] = {}
    void: dict[int, str] = {}  # id that is no label -> why


DATA_SETS = (
    DataSet("Cityscapes", r"[A-Za-z-]+_\d+_\d+_.*_labelIds", range(-1, 34), CITYSCAPES_IDS, NO_CITYSCAPES_CLASS),
    DataSet("Cityscapes", r"[A-Za-z-]+_\d+_\d+_gtFine_labelTrainIds", range(19), dict(enumerate(CITYSCAPES_CLASSES))),
    DataSet("PASCAL VOC", r"\d{4}_\d{6}", range(21), dict(enumerate(VOC_CLASSES))),
    DataSet("ADE20K", "ADE_.*", range(2**16), void={0: "other, in ADE20K"}),
    DataSet("Oxford pets", ".*", range(1, 4), {1: "pet", 2: "background"}, {3: "the border, in trimaps of the Oxford pets"}),
    DataSet("SegNet", ".*", range(12), void={11: "void, in SegNet's folders of CamVid"}),
    DataSet("LoveDA", ".*", range(8), dict(enumerate(LOVEDA_CLASSES, 1)), {0: "no data, in LoveDA"}),
)


def known_classes(pairs: Pairs, ids: Collection[int]) -> Classes:
    """What the data set that the pairs are of says about the ids that its masks hold; nothing if it is none of those above."""
    for layout, stems, known, names, void in DATA_SETS:
        named = layout == pairs.layout and all(re.fullmatch(stems, path.stem) for path in pairs.masks.values())
        if named and {*ids} <= {*known, IGNORE_INDEX}:
            origin = f"{layout}, which has this layout; --classes gives others" if names else ""
            return Classes(names, {index: why for index, why in void.items() if index in ids}, origin=origin)
    return Classes()


# ---- pairs that are told


def pairs_of_globs(images: str, masks: str, root: Path) -> Pairs:
    """The images and masks that two patterns name, paired by the text that stands for their "*"."""
    found = []
    for key, pattern in (("--images", images), ("--masks", masks)):
        if not {*"*?"} & {*pattern}:
            raise DataError(
                f"{key} is {pattern!r}; write a pattern in quotes, such as 'photos/*.jpg', with * for what both have in common"
            )
        whole = pattern if os.path.isabs(pattern) else f"{root}/{pattern}"
        start = Path(re.split(r"[^/]*[*?]", whole, maxsplit=1)[0])
        parts = {"**/": "(?:(.*)/)?", "**": "(.*)", "*": "([^/]*)", "?": "([^/])"}
        regex = re.compile("".join(parts.get(part) or re.escape(part) for part in re.split(r"(\*\*/|\*\*|\*|\?)", whole)))
        files = {path: match for path in find_images(start, flat=False).values() if (match := regex.fullmatch(path.as_posix()))}
        if not files:
            raise DataError(f"{key} is {pattern!r}; no image below {start} has such a name (only * and ? stand for others)")
        found.append({"/".join(filter(None, match.groups())): path for path, match in files.items()})
    photos, drawn = found
    used = {*drawn.values()}
    photos = {name: path for name, path in photos.items() if path not in used}
    pairs = {name: drawn[name] for name in photos if name in drawn}
    return Pairs(photos, pairs, [path for name, path in drawn.items() if name not in photos])


def pairs_of_list(path: Path) -> Pairs:
    """The images and masks of a list with an image, or an image, a tab (in a CSV, a comma) and its mask in each line."""
    images, masks = {}, {}
    for line in list_lines(path):
        line = with_slashes(line, lambda name: (path.parent / name).is_file())
        image, *mask = [Path(os.path.abspath(find_file(path.parent, name.strip()))) for name in line.split("\t")]
        for each in (image, *mask):
            if not each.is_file():
                rule = "a line is an image, a tab, and its mask, as paths from the list or whole"
                raise DataError(f"{path}: there is no file {each}; {rule}")
        whole = image.as_posix().lstrip("/")
        stem = strip_endings(whole)
        if image in (images.get(stem), images.get(whole)):
            raise DataError(f"{path} names {image} twice; name each image once, with one mask")
        name = whole if stem in images else stem  # of two images of one stem, the second is called by its whole name
        images[name] = image
        masks |= {name: mask[0]} if mask else {}
    return Pairs(images, masks)


# ---- Label Studio's export of brushes as PNGs: a file for each label of a picture, of which one mask is drawn


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
