"""What lies in a folder of somebody's own photos: which images have a mask, and what is in them.

    DIR/labeled/ DIR/unlabeled/ DIR/val/     each with images/ and masks/, or with images and a masks/ among them
    DIR/images/ DIR/masks/                   some images without a mask; images/val/ is held out, if it is there
"""

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Callable, Iterable, Sequence

import numpy as np
from PIL import Image

from ..data.duplicates import find_duplicates
from ..data.images import header_size, open_image
from ..data.layouts import folder_layout
from ..data.lists import Sample, find_images, list_names, read_list
from ..data.masks import ID_MODES, MASK_ENDINGS, MASK_FOLDERS, check_sizes, packed_rgb, read_ids
from ..data.sources import PART_NAMES
from ..errors import DataError, plural

PARTS = {  # the folder of a part by any of its usual names
    "labeled": ("labeled", "labelled", "train"),
    "unlabeled": ("unlabeled", "unlabelled", "pool"),
    "validation": ("val", "validation", "valid", "test"),
}
LISTS = {"labeled": ("labeled.txt", "labelled.txt"), "validation": ("validation.txt", "val.txt")}
DEEP = {"I", "I;16", "I;16B", "F"}  # Pillow's modes of images with more than 8 bits
MASK_TAGS = ("_mask", "_label")  # endings of mask names that image names lack


@dataclass(frozen=True, kw_only=True)
class Found:
    """The rows of a folder by part; a row of the pool never has a mask."""

    labeled: list[Sample]
    unlabeled: list[Sample]
    validation: list[Sample]
    remarks: list[str] = field(default_factory=list)  # sentences about what is not as it might be

    @property
    def parts(self) -> dict[str, list[Sample]]:
        return {part: getattr(self, part) for part in PARTS}


@dataclass(frozen=True)
class Look:
    """What one image and its mask hold. pixels: id -> count; colours: 0xRRGGBB -> count, of a mask of colours."""

    size: tuple[int, int]  # height, width
    mode: str = ""  # of the image, as Pillow calls it
    pixels: dict[int, int] = field(default_factory=dict)
    colours: dict[int, int] = field(default_factory=dict)


# ---- which images, which masks


def find(root: Path) -> Found:
    """The rows of a folder of photos, in whichever of the two layouts it is.

    Raises:
        DataError: there is no such folder, or nothing in it that could be trained on.
    """
    if not root.is_dir():
        raise DataError(f"there is no folder {root}; give the one that holds your photos (--help tells how)")
    folders = {part: next((root / name for name in names if (root / name).is_dir()), None) for part, names in PARTS.items()}
    found = from_subfolders(folders) if folders["labeled"] else from_images(root)
    if not found.labeled:
        raise DataError(f"no image in {root} has a mask; a mask is a PNG with the name of its image, in a folder masks/")
    return found


def from_subfolders(folders: dict[str, Path | None]) -> Found:
    """labeled/, unlabeled/ and val/; a labelled image without mask goes to the pool."""
    rows, remarks = {}, []
    for part, folder in folders.items():
        rows[part], orphans = pairs(folder) if folder else ([], [])
        if orphans:
            remarks.append(f"without an image: {plural(len(orphans), 'mask')} of {folder}, the first: {orphans[0]}")
    pool = [Sample(row.image, None, row.id) for row in rows["unlabeled"]]
    for part, fate in (("labeled", "put into the pool"), ("validation", "left out")):
        bare = [row for row in rows[part] if row.mask is None]
        if bare:
            count = plural(len(bare), "image")
            remarks.append(f"without a mask, so {fate}: {count} of {folders[part]}, the first: {bare[0].id}")
        pool += bare if part == "labeled" else []
    masked = {part: [row for row in rows[part] if row.mask] for part in ("labeled", "validation")}
    return Found(unlabeled=pool, remarks=remarks, **masked)


def from_images(root: Path) -> Found:
    """images/ and masks/: what has a mask is labelled, unless lists say otherwise or a subfolder is held out."""
    if not (root / "images").is_dir():
        there = [name for name in list_names(root) if (root / name).is_dir()]
        raise DataError(
            f"{root} has neither labeled/ (with unlabeled/ and val/) nor images/ (with masks/); it has"
            f" {', '.join(f'{name}/' for name in there[:8]) or 'no folders at all'}"
        )
    rows, orphans = pairs(root)
    remarks = [f"without an image: {plural(len(orphans), 'mask')}, the first: {orphans[0]}"] if orphans else []
    held, *spare = [name for name in PARTS["validation"] if (root / "images" / name).is_dir()] or [""]
    parts = {"validation": [row for row in rows if held and row.mask and row.id.startswith(f"{held}/")]}
    for name in spare:
        rows = [row for row in rows if not row.id.startswith(f"{name}/")]
        remarks.append(f"images/{name} is left alone, since images/{held} is there to evaluate on")
    parts["labeled"] = [row for row in rows if row.mask and row not in parts["validation"]]
    layout = folder_layout(root, root / "images", root / "masks")
    for part, names in LISTS.items():
        path = next((root / name for name in names if (root / name).is_file()), None)
        if path is not None:
            parts[part] = read_list(path.name, path, layout, masks=True)
            remarks.append(f"{path.name} says which images are {'labelled' if part == 'labeled' else 'for evaluation'}")
    held_out = {row.image for row in parts["validation"]}
    parts["labeled"] = [row for row in parts["labeled"] if row.image not in held_out]
    taken = held_out | {row.image for row in parts["labeled"]}
    return Found(unlabeled=[Sample(row.image, None, row.id) for row in rows if row.image not in taken], remarks=remarks, **parts)


def pairs(folder: Path) -> tuple[list[Sample], list[str]]:
    """Every image of a folder with its mask, if there is one; and the masks without image."""
    where = next((folder / name for name in MASK_FOLDERS if (folder / name).is_dir()), folder / MASK_FOLDERS[0])
    images = folder / "images" if (folder / "images").is_dir() else folder
    found = {name: path for name, path in find_images(images, flat=False).items() if not path.is_relative_to(where)}
    masks = find_images(where, flat=False, tags=MASK_TAGS, suffixes=MASK_ENDINGS)
    if not masks and find_images(where, flat=False, suffixes=(".jpg", ".jpeg")):
        raise DataError(f"the masks in {where} are JPEGs, which smear the ids of neighbours; save them as PNG")
    rows = [Sample(str(path), str(masks[name]) if name in masks else None, name) for name, path in found.items()]
    return rows, [masks[name].name for name in masks if name not in found]


# ---- what is in them


def look_at(rows: Sequence[Sample], palette: dict[int, int]) -> tuple[dict[str, Look], list[str]]:
    """Looks at every row, in threads: what it holds by its image's path, and a sentence for each that cannot be used."""

    def look(row: Sample) -> Look | DataError:
        try:
            return look_at_row(row, palette)
        except DataError as error:
            return error

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        looks = list(zip(rows, threads.map(look, rows)))
    usable = {row.image: result for row, result in looks if isinstance(result, Look)}
    return usable, [str(result) for _, result in looks if isinstance(result, DataError)]


def look_at_row(row: Sample, palette: dict[int, int]) -> Look:
    """What a row holds; an image with mask is decoded, of one without only the header is read."""
    image = {"path": row.image, "bytes": None}
    size = header_size(image)
    if row.mask is None:
        with Image.open(row.image) as picture:
            return Look(size, picture.mode)
    with open_image(image, "image") as picture:
        mode = picture.mode
    mask = {"path": row.mask, "bytes": None}
    with open_image(mask, "mask") as picture:
        in_colours = picture.mode not in ID_MODES
        values = packed_rgb(picture) if in_colours and not palette else read_ids(mask, palette)
    check_sizes({"image": image, "mask": mask}, size, values.shape)
    counts = dict(zip(*(array.tolist() for array in np.unique(values, return_counts=True))))
    return Look(size, mode, colours=counts) if in_colours and not palette else Look(size, mode, pixels=counts)


def levels_of(paths: Sequence[str], most: int = 20) -> list[float]:
    """data.levels for images of more than 8 bits: what one in a thousand pixels of a sample is below, and above."""
    sample = [paths[index] for index in np.unique(np.linspace(0, len(paths) - 1, min(most, len(paths))).astype(int))]
    ranges = []
    for path in sample:
        with open_image({"path": path, "bytes": None}, "image") as image:
            ranges.append(np.percentile(np.asarray(image), (0.1, 99.9)))
    low, high = np.min(ranges, axis=0)[0], np.max(ranges, axis=0)[1]
    return [float(f"{low:.6g}"), float(f"{max(high, low + 1e-6):.6g}")]


def keep(found: Found, test: Callable[[Sample], bool]) -> Found:
    """The rows that pass a test."""
    return replace(found, **{part: [row for row in rows if test(row)] for part, rows in found.parts.items()})


def without_twins(found: Found) -> Found:
    """Leaves every picture in one set only: evaluation first, then labels, then the pool; within a set copies stay."""
    part_of = {row.image: part for part in ("validation", "labeled", "unlabeled") for row in found.parts[part]}
    dropped: dict[str, str] = {}  # path -> the set that has the same picture
    for group in find_duplicates(part_of):
        first = part_of[group[0]]
        dropped |= {path: first for path in group[1:] if part_of[path] != first}
    counts = Counter((part_of[path], first) for path, first in dropped.items())
    remarks = [
        f"left out: {plural(count, f'{PART_NAMES[part]} image')} with the content of {PART_NAMES[first]} ones, the first:"
        f" {next(Path(path).name for path in dropped if (part_of[path], dropped[path]) == (part, first))}"
        for (part, first), count in counts.items()
    ]
    inside = sum(len(group) - 1 for group in find_duplicates(path for path in part_of if path not in dropped))
    if inside:
        remarks.append(f"there twice within its set, by content, and left there: {plural(inside, 'image')}")
    return replace(keep(found, lambda row: row.image not in dropped), remarks=[*found.remarks, *remarks])


# ---- an evaluation part, where there is none


def hold_out(
    rows: Sequence[Sample], classes_in: dict[str, Iterable[int]], share: float, rng: np.random.Generator
) -> tuple[list[Sample], list[Sample]]:
    """Parts labelled rows into those to train on and those to evaluate on, at random, seeded.

    An image whose class would be left without a training image is not taken, so rare classes stay where they are learned.
    """
    wanted = max(1, round(len(rows) * share))
    left = Counter(index for row in rows for index in classes_in[row.image])
    taken: set[str] = set()
    for place in rng.permutation(len(rows)):
        row = rows[place]
        if len(taken) < wanted and all(left[index] > 1 for index in classes_in[row.image]):
            taken.add(row.image)
            left.subtract(set(classes_in[row.image]))
    return [row for row in rows if row.image not in taken], [row for row in rows if row.image in taken]
