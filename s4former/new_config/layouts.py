"""How annotated images lie on people's disks: one table of layouts, with what pairs images and masks in each."""

import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from glob import has_magic
from pathlib import Path, PurePosixPath

from ..config import IGNORE_INDEX
from ..data.class_names import CITYSCAPES_CLASSES, CITYSCAPES_TRAIN_IDS, VOC_CLASSES
from ..data.lists import csv_lines, find_images, list_lines, strip_endings
from ..data.masks import MASK_FOLDERS
from ..data.pairing import IMAGE_TAGS, Files, beginnings, pair_up, remove_tag, take_masks
from ..errors import DataError
from ..files import read_text
from .class_files import Classes

Knowledge = Callable[[Sequence[Path], Collection[int]], Classes]  # of the masks, and of the ids in them


@dataclass
class Pairs:
    """Images by name, the masks of those that have one by the same name, and masks that belong to none."""

    images: Files
    masks: Files
    spare: list[Path] = field(default_factory=list)
    known: Knowledge = lambda masks, ids: Classes()
    layout: str = "as told"


# ---- what is known of some layouts


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


# ---- the table


@dataclass(frozen=True)
class Layout:
    """Images and masks in two folders, or side by side in one (no folders).

    The folders are regular expressions, looked for anywhere in a path; what is left of it, with the groups of the expression, is
    the name of a file. Of several folders the one that pairs most is taken, and of two that pair as many, the first.
    """

    name: str
    images: tuple[str, ...] = ()
    masks: tuple[str, ...] = ()
    known: Knowledge = lambda masks, ids: Classes()

    def pairs(self, files: Files) -> Iterator[Pairs]:
        for place in self.masks:
            masks = move_out(files, place)
            for images in self.images if masks else ():
                taken = {*masks.values()}
                photos = {name: path for name, path in move_out(files, images).items() if path not in taken}
                found = pair_up(photos, masks)
                left = spare(photos, masks, found)
                yield Pairs(photos if images else beside(photos, found), found, left, self.known, self.name)
        if not self.masks:
            found = take_masks(photos := dict(files))
            yield Pairs(beside(photos, found), found, known=self.known, layout=self.name)


BEFORE, AFTER = r"(?:(\w+?)[_-])?", r"(?:[_-](?:dir|png|jpe?g|tiff?|\d))?(?:[_-]?(train\w*|val\w*|test\w*|Tr|Ts))?"
IMAGES = (rf"{BEFORE}(?:images?|imgs?|photos?|pictures?|rgb|org-img){AFTER}", "")
MASKS = (
    *MASK_FOLDERS, "mask", "label", "annot(?:ation)?", "ann", "gts?|ground_?truths?", "(?:label|mask)[_-]?(?:img|image)s?",
    "segmentations?|segs?|semantic",
)  # fmt: skip
LAYOUTS = (
    Layout("Cityscapes", ("leftImg8bit",), ("gtFine", "gtCoarse"), cityscapes),
    Layout("PASCAL VOC", ("JPEGImages",), tuple(f"SegmentationClass{which}" for which in ("", "PNG", "Aug")), voc),
    Layout("Mapillary Vistas", ("images",), (r"v2\.0/labels", r"v1\.2/labels")),
    Layout("Supervisely", ("img",), ("masks_machine",)),
    Layout("LoveDA", ("(Urban|Rural)/images_png",), ("(Urban|Rural)/masks_png",), loveda),
    Layout("Oxford pets", ("images",), ("annotations/trimaps",), pets),
    Layout("ADE20K", ("images",), ("annotations",), ade20k),
    Layout("SegNet", ("",), (r"(\w+)annot",), segnet),
    Layout("DRIVE", IMAGES[:1], ("[12]st_manual",)),
    Layout("a folder of masks", IMAGES, tuple(f"{BEFORE}(?:{masks}){AFTER}" for masks in MASKS)),
    Layout("masks beside images"),
)
COMMON = tuple(layout.name for layout in LAYOUTS[-2:])


def find_pairs(folder: Path) -> Pairs:
    """The images and masks below a folder, by the layout that pairs most of them; where none does, the images it may hold.

    A layout of its own that pairs half as many as the most goes before those of any folders of masks.
    """
    files = find_images(folder, flat=False)
    found = [pairs for layout in LAYOUTS for pairs in layout.pairs(files)]
    best = max(found, key=lambda pairs: len(pairs.masks))
    known = max((pairs for pairs in found if pairs.layout not in COMMON), key=lambda pairs: len(pairs.masks), default=best)
    best = known if 2 * len(known.masks) >= len(best.masks) else best
    return best if best.masks else Pairs(move_out(files, IMAGES[0]) or files, {})


def beside(photos: Files, found: Collection[str]) -> Files:
    """The images in those folders in which some have a mask, or below them: of the first level that is not the same for all."""
    folders = {os.path.dirname(name) for name in found}
    depth = len(PurePosixPath(os.path.commonpath(folders) if folders else "").parts) + 1
    tops = {PurePosixPath(folder).parts[:depth] for folder in folders}
    return {name: path for name, path in photos.items() if PurePosixPath(name).parent.parts[:depth] in tops}


def spare(photos: Files, masks: Files, found: Files) -> list[Path]:
    """Masks that belong to no image; X_color beside X_label is another one of X."""
    bare = {os.path.basename(remove_tag(name, tag)) for name in photos for tag in ("", *IMAGE_TAGS)}
    used = {*found.values()}
    left = {name: path for name, path in masks.items() if path not in used}
    return [path for name, path in left.items() if bare.isdisjoint(beginnings(os.path.basename(name)))]


def move_out(files: Files, folder: str) -> Files:
    """The files in a folder, a regular expression, by their paths without it; all files if it is empty."""
    if not folder:
        return files
    found: Files = {}
    for name, path in files.items():
        if there := re.search(rf"(?i)(?<![^/]){folder}/", name):
            kept = "".join(f"{group}/" for group in there.groups() if group)
            found.setdefault(f"{name[: there.start()]}{kept}{name[there.end() :]}", path)
    return found


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
        image, *mask = [Path(os.path.abspath(path.parent / name.strip())) for name in line.split("\t")]
        for each in (image, *mask):
            if not each.is_file():
                rule = "a line is an image, a tab, and its mask, as paths from the list or whole"
                raise DataError(f"{path}: there is no file {each}; {rule}")
        name = strip_endings(image.as_posix().lstrip("/"))
        images[name] = image
        masks |= {name: mask[0]} if mask else {}
    return Pairs(images, masks)
