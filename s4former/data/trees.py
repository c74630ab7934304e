"""How annotated images lie on people's disks: one table of layouts, with what pairs images and masks in each."""

import os
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path, PurePosixPath

from .lists import find_images, strip_endings
from .masks import MASK_FOLDERS
from .pairing import (
    FORMS, IMAGE_TAGS, Files, Form, beginnings, having, holds_ids, may_be_mask, pair_up, remove_tag, take_masks,
)  # fmt: skip


@dataclass
class Pairs:
    """Images by name, the masks of those that have one by the same name, and masks that belong to none."""

    images: Files
    masks: Files
    spare: list[Path] = field(default_factory=list)
    layout: str = "as told"
    place: str = ""  # of the folders of masks, as in the table


@dataclass(frozen=True)
class TreeLayout:
    """Images and masks in two folders, or side by side in one (no folders).

    The folders are regular expressions, looked for anywhere in a path; what is left of it, with the groups of the expression, is
    the name of a file. Of several folders the one that pairs most is taken, and of two that pair as many, the first.
    """

    name: str
    images: tuple[str, ...] = ()
    masks: tuple[str, ...] = ()
    others: str = ""  # beside them, with neither images nor masks of classes

    def pairs(self, files: Files, forms: Sequence[Form] = FORMS) -> Iterator[Pairs]:
        for place in self.masks:
            masks = lossless_first(move_out(files, place))
            for images in self.images if masks else ():
                taken = {*masks.values()}
                photos = {name: path for name, path in move_out(files, images).items() if path not in taken}
                found = pair_up(photos, masks, forms)
                left = spare(photos, masks, found)
                yield Pairs(photos if images else beside(photos, found), found, left, self.name, place)
        if not self.masks:
            found = take_masks(photos := dict(files))
            yield Pairs(beside(photos, found), found, layout=self.name)


BEFORE, AFTER = r"(?:(\w+?)[_-])?", r"(?:[_-](?:dir|png|jpe?g|tiff?|\d))?(?:[_-]?(train\w*|val\w*|test\w*|Tr|Ts))?"
IMAGES = (rf"{BEFORE}(?:images?|imgs?|photos?|pictures?|rgb|org-img){AFTER}", "")
MASKS = (
    *MASK_FOLDERS, "mask", "label", "annot(?:ation)?", "ann", "gts?|ground_?truths?", "(?:label|mask)[_-]?(?:img|image)s?",
    "segmentations?|segs?|semantic",
)  # fmt: skip
LAYOUTS = (
    TreeLayout("Cityscapes", ("leftImg8bit",), ("gtFine", "gtCoarse")),
    TreeLayout("PASCAL VOC", ("JPEGImages",), tuple(f"SegmentationClass{which}" for which in ("", "PNG", "Aug")), r"Segmentation\w+"),
    TreeLayout("Mapillary Vistas", ("images",), (r"v2\.0/labels", r"v1\.2/labels"), r"v\d\.\d/\w+"),
    TreeLayout("Supervisely", ("img",), ("masks_machine",), r"masks_\w+"),
    TreeLayout("LoveDA", ("(Urban|Rural)/images_png",), ("(Urban|Rural)/masks_png",)),
    TreeLayout("Oxford pets", ("images",), ("annotations/trimaps",)),
    TreeLayout("ADE20K", ("images",), ("annotations",)),
    TreeLayout("SegNet", ("",), (r"(\w+)annot",)),
    TreeLayout("DRIVE", IMAGES[:1], ("[12]st_manual",)),
    TreeLayout("ISPRS", (r"\d_Ortho_RGB",), (r"\d_Labels_\w+",), r"\d_Ortho_IRRG"),
    TreeLayout("a folder of masks", IMAGES, tuple(f"{BEFORE}(?:{masks}){AFTER}" for masks in MASKS)),
    TreeLayout("masks beside images"),
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


def split_masks(files: Files) -> tuple[Files, Files]:
    """The photos among files, and the masks that lie beside them. Whole folders of masks, of which one has an image, are neither.

    Where the names of two folders are alike without their own folders alone, masks have to be such by their mode, too.
    """
    beside = take_masks(photos := dict(files))
    places = {f"{folder}/" for folder in {name.rpartition("/")[0] for name in files}}  # few, of a million files
    layouts = [layout for layout in LAYOUTS[:-1] if any(folder_in(each, mask) for mask in layout.masks for each in places)]
    folders: set[str] = set()
    names = {path: name for name, path in files.items()} if layouts else {}
    for layout, forms in product(layouts, (FORMS[:2], FORMS)):
        for pairs in layout.pairs(files, forms):
            found = {folder_in(names[path], pairs.place): path for path in pairs.masks.values()}
            folders |= {folder for folder, path in found.items() if forms is not FORMS or holds_ids(path)}
            folders |= {folder_in(name, layout.others) for name in files if found and layout.others} - {""}
    if folders:
        photos = {name: path for name, path in photos.items() if not name.startswith(tuple(folders))}
    return photos, beside


def lossless_first(masks: Files) -> Files:
    """Masks of which X.png, and not X.jpg beside it, is the one called X."""
    found = dict(masks)
    for name, path in masks.items():
        stem = strip_endings(name)
        if name.endswith(os.path.basename(path)) and stem in masks and may_be_mask(path) and not may_be_mask(masks[stem]):
            found[stem], found[name] = path, masks[stem]
    return found


def folder_in(name: str, folder: str) -> str:
    """A path up to the first folder in it that is called so, a regular expression; empty if there is none."""
    there = re.search(rf"(?i)(?<![^/]){folder}/", name)
    return name[: there.end()] if there else ""


def beside(photos: Files, found: Collection[str]) -> Files:
    """The images in those folders in which some have a mask, or below them: of the first level that is not the same for all."""
    folders = {os.path.dirname(name) for name in found}
    depth = len(PurePosixPath(os.path.commonpath(folders) if folders else "").parts) + 1
    tops = {tuple(name.split("/")[:-1][:depth]) for name in found}
    return {name: path for name, path in photos.items() if tuple(name.split("/")[:-1][:depth]) in tops}


def spare(photos: Files, masks: Files, found: Files) -> list[Path]:
    """Masks that belong to no image; X_color beside X_label is another one of X."""
    bare = {os.path.basename(name) for name in photos}
    bare |= {os.path.basename(remove_tag(name, tag)) for name in having(IMAGE_TAGS, photos) for tag in IMAGE_TAGS}
    used = {*found.values()}
    left = {name: path for name, path in masks.items() if path not in used}
    return [path for name, path in left.items() if bare.isdisjoint(beginnings(os.path.basename(name)))]


def move_out(files: Files, folder: str) -> Files:
    """The files in a folder, a regular expression, by their paths without it; all files if it is empty."""
    if not folder:
        return files
    found: Files = {}
    moved: dict[str, str | None] = {}  # folder -> without the one that is looked for; a million files have few folders
    for name, path in files.items():
        place, slash, last = name.rpartition("/")
        if place not in moved:
            there = re.search(rf"(?i)(?<![^/]){folder}/", place + slash)
            kept = "".join(f"{group}/" for group in there.groups() if group) if there else ""
            moved[place] = f"{place[: there.start()]}{kept}{(place + slash)[there.end() :]}" if there else None
        if (new := moved[place]) is not None:
            found.setdefault(new + last, path)
    return found
