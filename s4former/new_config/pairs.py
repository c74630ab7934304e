"""What each image of a folder is used for: training with its mask, the pool without one, or evaluation."""

import difflib
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..data.duplicates import find_duplicates
from ..data.lists import Layout, Sample, hold_out, list_names, read_list, strip_endings
from ..data.sources import PART_NAMES
from ..data.trees import Pairs, find_pairs
from ..errors import DataError, plural
from .label_studio import draw_label_studio
from .layouts import pairs_of_globs, pairs_of_list
from .unused import count_unused, describe_unpaired

PARTS = {  # what the folder of a part may be called, numbers at the end aside; the first that is there is taken
    "labeled": ("labeled", "labelled", "train", "training", "tr"),
    "unlabeled": ("unlabeled", "unlabelled", "pool"),
    "validation": ("val", "validation", "valid", "test", "testing", "ts"),
}
TESTS = ("test", "testing", "ts")  # their images without masks go into the pool, those of val/ do not
LISTS = ("labeled", "labelled", "validation", "val", "ImageSets/Segmentation/train", "ImageSets/Segmentation/val")  # .txt


@dataclass
class Photos:
    """The samples of a folder by part (those of "unlabeled" have no mask), remarks for the user, and why keys of `data` are so."""

    root: Path  # that all files lie below
    parts: dict[str, list[Sample]]
    remarks: list[str] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)
    pairs: Pairs = field(default_factory=lambda: Pairs({}, {}))

    def drop(self, images: Collection[str]) -> None:
        """Removes images, given by their paths, from every part."""
        self.parts = {part: [row for row in rows if row.image not in images] for part, rows in self.parts.items()}


def find_photos(root: Path, drawn: Path, images: str = "", masks: str = "") -> Photos:
    """The samples of a folder of photos in one of the layouts, of two patterns, or of a list of images and masks.

    Args:
        root: the folder, or the list.
        drawn: where masks are written, if they have to be drawn of the files of labels first.
        images, masks: patterns of files; empty = by the layout.

    Raises:
        DataError: there is no such folder, or nothing in it that could be trained on.
    """
    if root.is_file():
        pairs = pairs_of_list(root)
    elif not root.is_dir():
        raise DataError(f"there is no folder {root}; give the one that holds your photos (--help tells how)")
    else:
        pairs = pairs_of_globs(images, masks, root) if images else draw_label_studio(root, drawn)
    by_layout = pairs is None
    pairs = find_pairs(root) if pairs is None else pairs
    if not pairs.masks:
        raise DataError(describe_unpaired(root, pairs, "no image"))
    if by_layout:
        complete(root, pairs)
    files = [*pairs.images.values(), *pairs.masks.values()]
    inside = root.is_dir() and all(path.is_relative_to(root) for path in files)
    photos = Photos(root if inside else Path(os.path.commonpath([path.parent for path in files])), {}, pairs=pairs)
    if pairs.spare:
        by_stem = {path.stem: path.name for path in pairs.images.values()}
        near = difflib.get_close_matches(pairs.spare[0].stem, by_stem, n=1)
        photos.remarks.append(
            f"without an image: {plural(len(pairs.spare), 'mask')} of {pairs.spare[0].parent}, the first: {pairs.spare[0].name}"
            + (f"; the image that comes nearest is {by_stem[near[0]]}" if near else "")
        )
    twins = [name for name in pairs.images if name not in pairs.masks and (stem := strip_endings(name)) != name and stem in pairs.masks]
    if twins:
        other, mask = pairs.images[strip_endings(twins[0])], pairs.masks[strip_endings(twins[0])]
        photos.remarks.append(
            f"called as an image with a mask but for the ending, so without one: {plural(len(twins), 'image')}, the first:"
            f" {twins[0]} beside {other.name}; if the mask is its own, call it {Path(twins[0]).name}{mask.suffix}"
        )
    lists = [path for name in LISTS for level in ("", "*/", "*/*/") for path in root.glob(f"{level}{name}.txt") if by_layout]
    divide(photos, lists)
    if not photos.parts["labeled"]:
        raise DataError(describe_unpaired(root, pairs, "no image to train on"))
    first = photos.parts["labeled"][0]
    pair = [Path(path).relative_to(photos.root) for path in (first.image, first.mask)]
    photos.reasons["root"] = f"layout: {pairs.layout}; the first pair: {pair[0]} and its mask {pair[1]}"
    photos.remarks.insert(0, photos.reasons["root"])
    if by_layout:
        listed = (path for row in photos.parts["labeled"] + photos.parts["validation"] for path in (row.image, row.mask))
        photos.remarks += count_unused(root, {*listed, *map(str, files)})
    return photos


def complete(root: Path, pairs: Pairs) -> None:
    """Adds the folders of parts that the layout has nothing of, such as a pool without images/ beside labels with it."""
    there = {path.relative_to(root).parts[0] for path in (*pairs.images.values(), *pairs.masks.values())}
    for name in list_names(root):
        if name not in there and (root / name).is_dir() and part_word(f"{name}/"):
            more = find_pairs(root / name)
            pairs.images |= {f"{name}/{each}": path for each, path in more.images.items()}
            pairs.masks |= {f"{name}/{each}": path for each, path in more.masks.items()}


def part_word(name: str) -> str:
    """The first folder in a name that is called like a part; empty if there is none."""
    words = (re.sub(r"\d+$", "", folder.lower()) for folder in name.split("/")[:-1])
    return next((word for word in words if any(word in names for names in PARTS.values())), "")


def divide(photos: Photos, lists: Sequence[Path]) -> None:
    """What each image is for, by its folder or by lists; else what has a mask is labelled, and what has none is the pool."""
    pairs, remarks = photos.pairs, photos.remarks
    rows: dict[str, list[Sample]] = {}  # word -> samples
    for name, path in pairs.images.items():
        mask = pairs.masks.get(name)
        rows.setdefault(part_word(name), []).append(Sample(str(path), str(mask) if mask else None, name))
    words = {part: [name for name in names if name in rows] for part, names in PARTS.items()}
    parts: dict[str, list[Sample]] = {part: [row for word in there[:1] for row in rows[word]] for part, there in words.items()}
    parts["labeled"] += rows.get("", [])
    pool = [*parts["unlabeled"]]
    for part, (first, *others) in ((part, there) for part, there in words.items() if there):
        for word in (first, *others) if part != "unlabeled" else others:
            bare, masked = ([row for row in rows[word] if bool(row.mask) == has] for has in (False, True))
            left_out = part == "validation" and word == first and word not in TESTS
            if bare:
                fate, which = "left out" if left_out else "put into the pool", plural(len(bare), "image")
                remarks.append(f"without a mask, so {fate}: {which} of {word}/, the first: {Path(bare[0].image).name}")
            pool += [] if left_out else bare
            if word != first and masked:
                remarks.append(f"{word}/ is left alone, since {first}/ is there: {plural(len(masked), 'image')} with masks")
    pool += [row for row in rows.get("", []) if not row.mask]
    if masked := sum(bool(row.mask) for row in parts["unlabeled"]):
        unread = f"{plural(masked, 'mask')} of {words['unlabeled'][0]}/ {'is' if masked == 1 else 'are'} not read"
        remarks.append(f"{unread}: images there are the pool")
    parts = {part: [row for row in parts[part] if row.mask] for part in ("labeled", "validation")}
    apply_lists(photos, lists, parts, pool)
    held_out = {row.image for row in parts["validation"]}
    labeled = [row for row in parts["labeled"] if row.image not in held_out]
    if both := [row for row in parts["labeled"] if row.image in held_out]:
        if not labeled:
            raise DataError(f"every labelled image of {photos.root} is in the evaluation list, too; put others there")
        which = plural(len(both), "image")
        remarks.append(f"labelled and in the evaluation list, so evaluated on alone: {which}, the first: {Path(both[0].image).name}")
    used = held_out | {row.image for row in labeled}
    pool = [Sample(row.image, None, row.id) for row in pool if row.image not in used]
    photos.parts = {"labeled": labeled, "unlabeled": pool, "validation": parts["validation"]}


def apply_lists(photos: Photos, lists: Sequence[Path], parts: dict[str, list[Sample]], pool: list[Sample]) -> None:
    """Puts the samples of lists for the place of those that folders gave, which the pool gets if they were labelled."""
    pairs = photos.pairs
    layout = Layout(photos.root, pairs.images, pairs.masks, False, str(photos.root))
    for part in parts:
        path = next((path for path in lists if path.stem in PARTS[part]), None)
        if path is not None:
            listed = read_list(path.name, path, layout, masks=True)
            pool += parts[part] if part == "labeled" else []
            parts[part] = listed
            which = "labelled" if part == "labeled" else "for evaluation"
            photos.reasons[part] = f"{path.name} says which images are {which}"
            photos.remarks.append(photos.reasons[part])


def drop_duplicates(photos: Photos) -> None:
    """Leaves every picture in one part only: evaluation first, then labels, then the pool; within a part copies stay."""
    part_of = {row.image: part for part in ("validation", "labeled", "unlabeled") for row in photos.parts[part]}
    dropped: dict[tuple[str, str], list[str]] = {}  # (part, part that has the same picture) -> paths
    within = 0
    for group in find_duplicates(part_of):
        first = part_of[group[0]]
        for path in group[1:]:
            if part_of[path] == first:
                within += 1
            else:
                dropped.setdefault((part_of[path], first), []).append(path)
    for (part, first), paths in dropped.items():
        photos.drop(paths)
        photos.remarks.append(
            f"left out: {plural(len(paths), f'{PART_NAMES[part]} image')} with the content of {PART_NAMES[first]} ones, the"
            f" first: {Path(paths[0]).name}"
        )
    if within:
        photos.remarks.append(f"there twice within its set, by content, and left there: {plural(within, 'image')}")


def split_validation(photos: Photos, ids: Mapping[str, Collection[int]], share: float, seed: int) -> None:
    """Holds out a random share of the labelled images for evaluation.

    An image whose class would be left without a training image is not taken, so rare classes stay where they are learned.

    Args:
        ids: the ids in the mask of each image, by its path.
    """
    rows = photos.parts["labeled"]
    if len(rows) < 2:
        raise DataError("there is one labelled image, which cannot be trained and evaluated on at once; label another")
    wanted = max(1, round(len(rows) * share))
    held = {rows[place].image for place in hold_out([ids[row.image] for row in rows], wanted, seed)}
    if not held:
        raise DataError(
            "there is no val/, and no labelled image can be held out without leaving a class without any; put labelled"
            " images to evaluate on into val/"
        )
    photos.parts["validation"] = [row for row in rows if row.image in held]
    photos.parts["labeled"] = [row for row in rows if row.image not in held]
    photos.reasons["validation"] = f"there is no val/: {len(held)} of the {len(rows)} labelled images held out (seed {seed})"
    photos.remarks.append(photos.reasons["validation"])
