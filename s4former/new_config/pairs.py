"""What each image of a folder is used for: training with its mask, the pool without one, or evaluation."""

import os
import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..data.lists import Layout, Sample, find_duplicates, hold_out, list_names, read_list
from ..data.sources import PART_NAMES
from ..data.trees import Pairs, find_pairs
from ..errors import DataError, plural
from .layouts import draw_label_studio, pairs_of_globs, pairs_of_list
from .unused import OF_THE_HUB, count_unused, describe_single, describe_unpaired

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
    pairs: Pairs
    parts: dict[str, list[Sample]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)

    def drop(self, images: Collection[str]) -> None:
        """Removes images, given by their paths, from every part."""
        self.parts = {part: [row for row in rows if row.image not in images] for part, rows in self.parts.items()}

    def explain(self, key: str, reason: str) -> None:
        """Says why a key of `data` is so, to the user and in the config."""
        self.reasons[key] = reason
        self.remarks.append(reason)


def find_photos(root: Path, drawn: Path, images: str = "", masks: str = "") -> Photos:
    """The samples of a folder of photos in one of the layouts, of two patterns, or of a list; `DataError` if nothing could be trained on.

    root: the folder, or the list. drawn: where masks go that have to be drawn of files of labels first. images, masks: the patterns.
    """
    if not root.exists():
        raise DataError(f"there is no folder {root}; give the one that holds your photos (--help tells how); {OF_THE_HUB}")
    if root.is_file():
        given = pairs_of_list(root)
    else:
        given = pairs_of_globs(images, masks, root) if images else draw_label_studio(root, drawn)
    pairs = given or find_pairs(root)
    if not pairs.masks:
        raise DataError(describe_unpaired(root, pairs, "no image"))
    if not given:
        complete(root, pairs)
    files = [*pairs.images.values(), *pairs.masks.values()]
    inside = root.is_dir() and all(path.is_relative_to(root) for path in files)
    photos = Photos(root if inside else Path(os.path.commonpath([path.parent for path in files])), pairs)
    lists = [path for name in LISTS for level in ("", "*/", "*/*/") for path in root.glob(f"{level}{name}.txt") if not given]
    divide(photos, lists)
    if not photos.parts["labeled"]:
        raise DataError(describe_unpaired(root, pairs, "no image to train on"))
    first = photos.parts["labeled"][0]
    image, mask = (Path(path).relative_to(photos.root) for path in (first.image, first.mask))
    photos.explain("root", f"layout: {pairs.layout}; the first pair: {image} and its mask {mask}")
    photos.remarks += describe_single(pairs)
    if not given:
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
    masks, remarks = photos.pairs.masks, photos.remarks
    masked: dict[str, list[Sample]] = defaultdict(list)  # word -> samples
    bare: dict[str, list[Sample]] = defaultdict(list)
    for name, path in photos.pairs.images.items():
        mask = masks.get(name)
        (masked if mask else bare)[part_word(name)].append(Sample(str(path), str(mask) if mask else None, name))
    parts, pool = {"labeled": masked[""], "validation": []}, bare[""]
    for part, names in PARTS.items():
        used, *others = [name for name in names if name in masked or name in bare] or [""]
        for word in (used, *others) if used else ():
            if part == "unlabeled":
                pool += bare[word] + masked[word]
                if count := len(masked[word]):
                    which = f"{plural(count, 'mask')} of {word}/ {'is' if count == 1 else 'are'} not read"
                    remarks.append(f"{which}: images there are the pool")
                continue
            left_out = part == "validation" and word == used and word not in TESTS
            if bare[word]:
                fate = "left out" if left_out else "put into the pool"
                which = f"{plural(len(bare[word]), 'image')} of {word}/, the first: {Path(bare[word][0].image).name}"
                remarks.append(f"without a mask, so {fate}: {which}")
            pool += [] if left_out else bare[word]
            if word == used:
                parts[part] += masked[word]
            elif masked[word]:
                remarks.append(f"{word}/ is left alone, since {used}/ is there: {plural(len(masked[word]), 'image')} with masks")
    apply_lists(photos, lists, parts, pool)
    held_out = {row.image for row in parts["validation"]}
    labeled = [row for row in parts["labeled"] if row.image not in held_out]
    if both := [row for row in parts["labeled"] if row.image in held_out]:
        if not labeled:
            raise DataError(f"every labelled image of {photos.root} is in the evaluation list, too; put others there")
        which = f"{plural(len(both), 'image')}, the first: {Path(both[0].image).name}"
        remarks.append(f"labelled and in the evaluation list, so evaluated on alone: {which}")
    used = held_out | {row.image for row in labeled}
    pool = [Sample(row.image, None, row.id) for row in pool if row.image not in used]
    photos.parts = {"labeled": labeled, "unlabeled": pool, "validation": parts["validation"]}


def apply_lists(photos: Photos, lists: Sequence[Path], parts: dict[str, list[Sample]], pool: list[Sample]) -> None:
    """Puts the samples of lists for the place of those that folders gave, which the pool gets if they were labelled."""
    layout = Layout(photos.root, photos.pairs.images, photos.pairs.masks, False, str(photos.root))
    for part, which in (("labeled", "labelled"), ("validation", "for evaluation")):
        if there := [path for path in lists if path.stem in PARTS[part]]:
            pool += parts[part] if part == "labeled" else []
            parts[part] = read_list(there[0].name, there[0], layout, masks=True)
            photos.explain(part, f"{there[0].name} says which images are {which}")


def drop_duplicates(photos: Photos) -> None:
    """Leaves every picture in one part only: evaluation, then labels, then the pool; `DataError` if no labels are left."""
    part_of = {row.image: part for part in ("validation", "labeled", "unlabeled") for row in photos.parts[part]}
    copies: dict[tuple[str, str], list[str]] = defaultdict(list)  # (part, part that has the same picture) -> paths
    for first, *others in find_duplicates(part_of):
        for path in others:
            copies[part_of[path], part_of[first]].append(path)
    within = sum(len(paths) for (part, first), paths in copies.items() if part == first)
    for (part, first), paths in copies.items():
        if part == first:
            continue
        photos.drop(paths)
        which = f"{plural(len(paths), f'{PART_NAMES[part]} image')} with the content of {PART_NAMES[first]} ones"
        photos.remarks.append(f"left out: {which}, the first: {Path(paths[0]).name}")
    if not photos.parts["labeled"]:
        raise DataError(f"every labelled image of {photos.root} is also in its evaluation set, by content; put other images there")
    if within:
        photos.remarks.append(f"there twice within its set, by content, and left there: {plural(within, 'image')}")


def split_validation(photos: Photos, ids: Mapping[str, Collection[int]], share: float, seed: int) -> None:
    """Holds out a random share of the labelled images for evaluation, but none that alone shows a class.

    ids: those in the mask of each image, by its path.
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
    photos.explain("validation", f"there is no val/: {len(held)} of the {len(rows)} labelled images held out (seed {seed})")
