"""What some layouts of data sets say about their ids; and images and masks that are told by patterns or a list."""

import os
import re
from collections.abc import Collection
from glob import has_magic
from pathlib import Path
from typing import NamedTuple

from ..config import IGNORE_INDEX
from ..data.class_names import CITYSCAPES_CLASSES, CITYSCAPES_TRAIN_IDS, VOC_CLASSES
from ..data.lists import csv_lines, find_images, list_lines, strip_endings, with_slashes
from ..data.trees import Pairs
from ..errors import DataError
from ..files import read_text
from .class_files import Classes

LOVEDA_CLASSES = ("background", "building", "road", "water", "barren", "forest", "agriculture")
CITYSCAPES_IDS = {int(raw): CITYSCAPES_CLASSES[index] for raw, index in CITYSCAPES_TRAIN_IDS.items() if index != IGNORE_INDEX}
NO_CITYSCAPES_CLASS = dict.fromkeys({*range(-1, 34)} - {*CITYSCAPES_IDS}, "none of the 19 classes of Cityscapes")


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
            return Classes(names, {index: why for index, why in void.items() if index in ids})
    return Classes()


# ---- pairs that are told


def pairs_of_globs(images: str, masks: str, root: Path) -> Pairs:
    """The images and masks that two patterns name, paired by the text that stands for their "*"."""
    found = []
    for key, pattern in (("--images", images), ("--masks", masks)):
        if not has_magic(pattern):
            raise DataError(
                f"{key} is {pattern!r}; write a pattern in quotes, such as 'photos/*.jpg', with * for what both have in common"
            )
        whole = pattern if os.path.isabs(pattern) else f"{root}/{pattern}"
        start = Path(re.split(r"[^/]*[*?[]", whole, maxsplit=1)[0])
        parts = {"**/": "(?:(.*)/)?", "**": "(.*)", "*": "([^/]*)", "?": "([^/])"}
        regex = re.compile("".join(parts.get(part) or re.escape(part) for part in re.split(r"(\*\*/|\*\*|\*|\?)", whole)))
        files = {path: match for path in find_images(start, flat=False).values() if (match := regex.fullmatch(path.as_posix()))}
        if not files:
            raise DataError(f"{key} is {pattern!r}; no image below {start} has such a name")
        found.append({"/".join(filter(None, match.groups())): path for path, match in files.items()})
    photos, drawn = found
    used = {*drawn.values()}
    photos = {name: path for name, path in photos.items() if path not in used}
    pairs = {name: drawn[name] for name in photos if name in drawn}
    return Pairs(photos, pairs, [path for name, path in drawn.items() if name not in photos])


def pairs_of_list(path: Path) -> Pairs:
    """The images and masks of a list with an image, or an image, a tab (in a CSV, a comma) and its mask in each line."""
    images, masks = {}, {}
    for line in list_lines(csv_lines(path) or read_text(path).splitlines()):
        line = with_slashes(line, lambda name: (path.parent / name).is_file())
        image, *mask = [Path(os.path.abspath(path.parent / name.strip())) for name in line.split("\t")]
        for each in (image, *mask):
            if not each.is_file():
                rule = "a line is an image, a tab, and its mask, as paths from the list or whole"
                raise DataError(f"{path}: there is no file {each}; {rule}")
        name = strip_endings(image.as_posix().lstrip("/"))
        images[name] = image
        masks |= {name: mask[0]} if mask else {}
    return Pairs(images, masks)
