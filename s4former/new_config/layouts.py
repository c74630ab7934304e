"""What some layouts of data sets say about their ids; and images and masks that are told by patterns or a list."""

import os
import re
from collections.abc import Callable, Collection, Sequence
from glob import has_magic
from pathlib import Path

from ..config import IGNORE_INDEX
from ..data.class_names import CITYSCAPES_CLASSES, CITYSCAPES_TRAIN_IDS, VOC_CLASSES
from ..data.lists import csv_lines, find_images, list_lines, strip_endings, with_slashes
from ..data.trees import Pairs
from ..errors import DataError
from ..files import read_text
from .class_files import Classes

Knowledge = Callable[[Sequence[Path], Collection[int]], Classes]  # of the masks, and of the ids in them


def cityscapes(masks: Sequence[Path], ids: Collection[int]) -> Classes:
    """labelIds are mapped as by the official scripts; another data set in the same folders has its own ids and names."""
    ids = set(ids) - {IGNORE_INDEX}
    if not all(re.match(r"[A-Za-z-]+_\d+_\d+_", path.stem) for path in masks):  # CITY_SEQUENCE_FRAME_
        return Classes()
    if masks[0].stem.endswith("_labelIds") and max(ids, default=0) < 34:
        names = {int(raw): CITYSCAPES_CLASSES[index] for raw, index in CITYSCAPES_TRAIN_IDS.items() if index != IGNORE_INDEX}
        return Classes(names, {index: "none of the 19 classes of Cityscapes" for index in sorted(ids - names.keys())})
    official = masks[0].stem.endswith("_gtFine_labelTrainIds") and max(ids, default=0) < 19
    return Classes(dict(enumerate(CITYSCAPES_CLASSES)) if official else {})


def voc(masks: Sequence[Path], ids: Collection[int]) -> Classes:
    official = all(re.fullmatch(r"\d{4}_\d{6}", path.stem) for path in masks) and set(ids) <= {*range(21), IGNORE_INDEX}
    return Classes(dict(enumerate(VOC_CLASSES)) if official else {})


def ade20k(masks: Sequence[Path], ids: Collection[int]) -> Classes:
    official = all(path.stem.startswith("ADE_") for path in masks)
    return Classes(void={0: "other, in ADE20K"} if official else {})


def pets(masks: Sequence[Path], ids: Collection[int]) -> Classes:
    known = Classes({1: "pet", 2: "background"}, {3: "the border, in trimaps of the Oxford pets"})
    return known if set(ids) <= {1, 2, 3} else Classes()


def segnet(masks: Sequence[Path], ids: Collection[int]) -> Classes:
    official = max(set(ids) - {IGNORE_INDEX}, default=0) == 11
    return Classes(void={11: "void, in SegNet's folders of CamVid"} if official else {})


def loveda(masks: Sequence[Path], ids: Collection[int]) -> Classes:
    names = ("background", "building", "road", "water", "barren", "forest", "agriculture")
    return Classes(dict(enumerate(names, 1)), {0: "no data, in LoveDA"}) if set(ids) <= set(range(8)) else Classes()


KNOWN: dict[str, Knowledge] = {  # by the name of the layout
    "Cityscapes": cityscapes, "PASCAL VOC": voc, "LoveDA": loveda, "Oxford pets": pets, "ADE20K": ade20k, "SegNet": segnet,
}  # fmt: skip


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
