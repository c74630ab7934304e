"""Which files in a folder of somebody's own photos form pairs of image and mask, and what each is used for.

    DIR/labeled/ DIR/unlabeled/ DIR/val/     each with images/ and masks/, or with images and a masks/ among them
    DIR/images/ DIR/masks/                   some images without a mask; images/val/ is held out, if it is there
"""

import difflib
import os
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..data.duplicates import find_duplicates
from ..data.images import IMAGE_ENDINGS, read_header
from ..data.layouts import folder_layout
from ..data.lists import Sample, find_images, list_names, read_list, strip_endings
from ..data.masks import ID_MODES, MASK_ENDINGS, MASK_FOLDERS
from ..data.sources import PART_NAMES
from ..errors import DataError, plural
from ..randomness import Stream, numpy_generator

PARTS = {  # the folder of a part by any of its usual names
    "labeled": ("labeled", "labelled", "train"),
    "unlabeled": ("unlabeled", "unlabelled", "pool"),
    "validation": ("val", "validation", "valid", "test"),
}
LISTS = {"labeled": ("labeled.txt", "labelled.txt"), "validation": ("validation.txt", "val.txt")}
NAME_FILES = ("classes.json", "classes.txt", "_classes.csv", "*/_classes.csv")  # of the names of classes
PALETTE_FILES = ("palette.json", "class_dict.csv", "labelmap.txt", "label_colors.txt")
MASK_TAGS = ("_mask", "_label")  # endings of mask names that image names lack


TEXTS = (".txt", ".csv", ".md")
CURES = {
    (".heic", ".heif"): "convert them to JPEG",
    (".mp4", ".mov", ".avi", ".mkv", ".webm"): "take single frames out of them (ffmpeg -i VIDEO -r 1 %05d.png)",
    (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar"): "unpack them",
    (".json", ".xml"): "polygons have to be drawn into masks first",
    (".cr2", ".nef", ".arw", ".dng", ".raw"): "develop them to TIFF or JPEG",
    (".npy", ".npz", ".mat"): "save them as TIFF or PNG",
}


@dataclass
class Photos:
    """The samples of a folder by part (those of "unlabeled" have no mask), and remarks for the user."""

    parts: dict[str, list[Sample]]
    remarks: list[str] = field(default_factory=list)

    def drop(self, images: Collection[str]) -> None:
        """Removes images, given by their paths, from every part."""
        self.parts = {part: [row for row in rows if row.image not in images] for part, rows in self.parts.items()}


def find_photos(root: Path) -> Photos:
    """The samples of a folder of photos, in whichever of the two layouts it is.

    Raises:
        DataError: there is no such folder, or nothing in it that could be trained on.
    """
    if not root.is_dir():
        raise DataError(f"there is no folder {root}; give the one that holds your photos (--help tells how)")
    folders = {part: next((root / name for name in names if (root / name).is_dir()), None) for part, names in PARTS.items()}
    photos = read_subfolders(folders) if folders["labeled"] else read_images_and_masks(root)
    photos.parts = {part: photos.parts[part] for part in PARTS}
    if not photos.parts["labeled"]:
        found = "".join(f"; {remark}" for remark in photos.remarks)
        raise DataError(f"no image in {root} has a mask; a mask is a PNG with the name of its image, in a folder masks/{found}")
    count_unused(root, photos)
    photos.parts["unlabeled"] = [replace(row, mask=None) for row in photos.parts["unlabeled"]]
    return photos


def read_subfolders(folders: dict[str, Path | None]) -> Photos:
    """labeled/, unlabeled/ and val/; a labelled image without a mask counts as unlabelled."""
    photos = Photos({})
    for part, names in PARTS.items():
        spare = [name for name in names if folders[part] and (folders[part].parent / name).is_dir()][1:]
        photos.remarks += [f"{name}/ is left alone, since {folders[part].name}/ is there" for name in spare]
    for part, folder in folders.items():
        photos.parts[part] = find_pairs(folder, photos.remarks) if folder else []
    for part, fate in (("labeled", "put into the pool"), ("validation", "left out")):
        bare = [row for row in photos.parts[part] if row.mask is None]
        if bare:
            count = plural(len(bare), "image")
            photos.remarks.append(f"without a mask, so {fate}: {count} of {folders[part]}, the first: {bare[0].id}")
        photos.drop({row.image for row in bare})
        photos.parts["unlabeled"] += bare if part == "labeled" else []
    return photos


def read_images_and_masks(root: Path) -> Photos:
    """images/ and masks/: what has a mask is labelled, unless lists say otherwise or a subfolder is held out."""
    if not (root / "images").is_dir():
        there = [name for name in list_names(root) if (root / name).is_dir()]
        raise DataError(
            f"{root} has neither labeled/ (with unlabeled/ and val/) nor images/ (with masks/); it has"
            f" {', '.join(f'{name}/' for name in there[:8]) or 'no folders at all'}"
        )
    remarks: list[str] = []
    rows = find_pairs(root, remarks)
    held, *spare = [name for name in PARTS["validation"] if (root / "images" / name).is_dir()] or [""]
    for name in spare:
        rows = [row for row in rows if not row.id.startswith(f"{name}/")]
        remarks.append(f"images/{name} is left alone, since images/{held} is there to evaluate on")
    masked = [row for row in rows if row.mask]
    parts = {"labeled": masked, "validation": [row for row in masked if held and row.id.startswith(f"{held}/")]}
    layout = folder_layout(root, root / "images", root / "masks")
    for part, names in LISTS.items():
        path = next((root / name for name in names if (root / name).is_file()), None)
        if path is not None:
            parts[part] = read_list(path.name, path, layout, masks=True)
            remarks.append(f"{path.name} says which images are {'labelled' if part == 'labeled' else 'for evaluation'}")
    held_out = {row.image for row in parts["validation"]}
    parts["labeled"] = [row for row in parts["labeled"] if row.image not in held_out]
    used = held_out | {row.image for row in parts["labeled"]}
    return Photos({**parts, "unlabeled": [row for row in rows if row.image not in used]}, remarks)


def find_pairs(folder: Path, remarks: list[str]) -> list[Sample]:
    """Every image of a folder with its mask, if there is one; masks without an image are remarked on."""
    where = next((folder / name for name in MASK_FOLDERS if (folder / name).is_dir()), folder / MASK_FOLDERS[0])
    images = folder / "images" if (folder / "images").is_dir() else folder
    found = {name: path for name, path in find_images(images, flat=False).items() if not path.is_relative_to(where)}
    masks = find_images(where, flat=False, tags=MASK_TAGS, suffixes=MASK_ENDINGS)
    if not masks and find_images(where, flat=False, suffixes=(".jpg", ".jpeg")):
        raise DataError(f"the masks in {where} are JPEGs, which smear the ids of neighbours; save them as PNG")
    for name in [name for name in found if strip_endings(name, MASK_TAGS) in found.keys() - {name}]:
        if name.endswith(MASK_TAGS) and found[name].suffix.lower() in MASK_ENDINGS:  # X_mask beside X
            masks[strip_endings(name, MASK_TAGS)] = found.pop(name)
    for name in [name for name in found if strip_endings(name) in found.keys() - {name}]:
        photo = found[strip_endings(name)]
        if strip_endings(name) not in masks and holds_ids(found[name]) and not holds_ids(photo):  # X.png beside X.jpg
            masks[strip_endings(name)] = found.pop(name)
    tag = shared_tag(list(masks)) if not masks.keys() & found.keys() else ""
    masks = {name if name in found else strip_endings(name.removesuffix(tag)): path for name, path in masks.items()}
    if orphans := [name for name in masks if name not in found]:
        near = difflib.get_close_matches(orphans[0], found, n=1)
        remarks.append(
            f"without an image: {plural(len(orphans), 'mask')} of {folder}, the first: {masks[orphans[0]].name}"
            + (f"; the image that comes nearest is {found[near[0]].name}" if near else "")
        )
    return [Sample(str(path), str(masks[name]) if name in masks else None, name) for name, path in found.items()]


def holds_ids(path: Path) -> bool:
    """Whether a file may be a mask by its ending and its mode; False if it cannot be read."""
    with suppress(DataError):
        return path.suffix.lower() in MASK_ENDINGS and read_header({"path": str(path), "bytes": None}).mode in ID_MODES
    return False


def shared_tag(names: Sequence[str]) -> str:
    """What all names end in, from its first separator on, such as "_segmentation"; empty if there is nothing."""
    ending = os.path.commonprefix([name[::-1] for name in names])[::-1] if len(names) > 1 else ""
    return re.sub(r"^[^_.-]*", "", ending)


def count_unused(root: Path, photos: Photos) -> None:
    """Remarks on the files of a folder that nothing is taken from, counted by ending, each with what to do."""
    used = {path for rows in photos.parts.values() for row in rows for path in (row.image, row.mask) if path}
    unused = [Path(place, name) for place, _, names in os.walk(root, followlinks=True) for name in names]
    unused = [path for path in unused if str(path) not in used and path.suffix.lower() not in TEXTS]
    hidden = [path for path in unused if any(part.startswith(".") for part in path.relative_to(root).parts)]
    kinds: dict[str, list[Path]] = {"hidden": hidden} if hidden else {}
    for path in (path for path in unused if path not in hidden and path.name not in NAME_FILES + PALETTE_FILES):
        kinds.setdefault(path.suffix.lower() or "without an ending", []).append(path)
    for kind, paths in sorted(kinds.items()):
        cure = next((cure for endings, cure in CURES.items() if kind in endings), "no kind of file that is read here")
        cure = "hidden files are no photos" if kind == "hidden" else cure
        cure = "neither a photo of a part nor the mask of one" if kind in IMAGE_ENDINGS else cure
        photos.remarks.append(f"not used: {plural(len(paths), 'file')} ({kind}), the first: {paths[0].name}; {cure}")


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
    left = Counter(index for row in rows for index in ids[row.image])
    held: set[str] = set()
    for place in numpy_generator(seed, Stream.HELD_OUT).permutation(len(rows)):
        image = rows[place].image
        if len(held) < wanted and all(left[index] > 1 for index in ids[image]):
            held.add(image)
            left.subtract(set(ids[image]))
    if not held:
        raise DataError(
            "there is no val/, and no labelled image can be held out without leaving a class without any; put labelled"
            " images to evaluate on into val/"
        )
    photos.parts["validation"] = [row for row in rows if row.image in held]
    photos.parts["labeled"] = [row for row in rows if row.image not in held]
    photos.remarks.append(f"there is no val/: {len(held)} of the {len(rows)} labelled images held out (seed {seed})")
