"""Files of a folder that nothing is made of: what they are, and how they would be used."""

import difflib
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path

from ..data.images import IMAGE_ENDINGS
from ..data.lists import find_images, list_names, printable, strip_endings, walk_folders
from ..data.pairing import BESIDE, holds_ids, remove_tag
from ..data.trees import Pairs
from ..errors import plural
from ..rasterize.annotations import MOST, file_format, polygon_format
from .class_files import CLASS_FILES

OF_THE_HUB = "a dataset of the Hub, or one saved by save_to_disk, is read without new-config: data.source=hub (docs/own_images.md)"
KNOWN = {*CLASS_FILES, "data.yaml", "ids.json"}  # the last is written by `s4former rasterize`
TEXTS = (".txt", ".csv", ".md")
CURES = {
    "hidden": "hidden files are no photos",
    **dict.fromkeys(IMAGE_ENDINGS, "neither a photo of a part (such as unlabeled/) nor the mask of one"),
    **dict.fromkeys((".heic", ".heif"), "convert them to JPEG"),
    **dict.fromkeys((".mp4", ".mov", ".avi", ".mkv", ".webm"), "take single frames out of them (ffmpeg -i VIDEO -r 1 %05d.png)"),
    **dict.fromkeys((".zip", ".tar", ".gz", ".tgz", ".7z", ".rar"), "unpack them"),
    **dict.fromkeys((".json", ".xml"), "if they hold polygons, s4former rasterize draws these as masks"),
    **dict.fromkeys((".cr2", ".nef", ".arw", ".dng", ".raw"), "develop them to TIFF or JPEG"),
    **dict.fromkeys((".npy", ".npz", ".mat"), "save them as TIFF or PNG"),
    **dict.fromkeys(
        (".nii", ".nii.gz", ".mha", ".nrrd", ".dcm"),
        "save the slices as PNG, in nnU-Net's tree imagesTr/CASE_0000.png and labelsTr/CASE.png",
    ),
}


def count_unused(root: Path, used: Collection[str]) -> list[str]:
    """Remarks on the files of a folder that nothing is taken from, counted by ending, each with what to do."""
    kinds: dict[str, list[Path]] = defaultdict(list)
    drawn = False  # whether there are masks that were drawn of the annotations, which then are used
    for path in (root / f"{place}{name}" for place, names in walk_folders(root, hidden=True) for name in names):
        drawn |= path.name == "ids.json"
        ending = ".nii.gz" if path.name.lower().endswith(".nii.gz") else path.suffix.lower()
        kind = "hidden" if any(part.startswith(".") for part in path.relative_to(root).parts) else ending or "without an ending"
        if str(path) not in used and ending not in TEXTS and path.name not in KNOWN:
            kinds[kind].append(path)
    return [
        f"not used: {plural(len(paths), 'file')} ({kind}), the first: {printable(paths[0].name)};"
        f" {CURES.get(kind, 'no kind of file that is read here')}"
        for kind, paths in sorted(kinds.items())
        if not (drawn and all(file_format(path) for path in paths[:MOST]))
    ]


def describe_single(pairs: Pairs) -> list[str]:
    """Remarks on masks without an image, and on images without a mask whose name is that of one with it but for the ending."""
    remarks = []
    if pairs.spare:
        first = pairs.spare[0]
        remarks.append(f"without an image: {plural(len(pairs.spare), 'mask')} of {first.parent}, the first: {first.name}")
    twins = [name for name in pairs.images if name not in pairs.masks and strip_endings(name) in pairs.masks]
    if twins:
        other, mask = (files[strip_endings(twins[0])] for files in (pairs.images, pairs.masks))
        remarks.append(
            f"called as an image with a mask but for the ending, so without one: {plural(len(twins), 'image')}, the first:"
            f" {twins[0]} beside {other.name}; if the mask is its own, call it {Path(twins[0]).name}{mask.suffix}"
        )
    return remarks


def describe_unpaired(root: Path, pairs: Pairs, which: str) -> str:
    """Why no image has a mask: what was found, what comes nearest to a pair, and the rule. which: "no image"."""
    if root.is_dir() and (kind := polygon_format(root)):
        return f"{root} holds annotations of {kind} and no masks; draw them first: s4former rasterize {root}, then this again"
    if any((root / name).is_file() for name in ("dataset_dict.json", "state.json")):
        return f"{root} holds a dataset; {OF_THE_HUB}"
    used = {path for name in pairs.masks for path in (pairs.images[name], pairs.masks[name])}
    files = [path for path in find_images(root, flat=False).values() if path not in used]
    rule = (
        "a mask has the name of its image, with or without a tag such as _mask, in a folder masks/ (labels/, annotations/) beside the"
        " images or images/, or lies beside its image as X_mask.png; see docs/own_images.md for other trees"
    )
    masks = pairs.spare or [path for path in files if any(remove_tag(path.stem, tag) != path.stem for tag in BESIDE)]
    masks = masks or [path for path in files if holds_ids(path)]
    taken = {*masks}
    photos = {path.stem: path for path in files if path not in taken}
    if not masks or not photos:
        folders = ", ".join(f"{name}/" for name in list_names(root)[:8] if (root / name).is_dir())
        found = f"{plural(len(photos), 'image')} and no file that may be a mask"
        found = f"{plural(len(masks), 'mask')}, but not their images" if masks else found
        found += f" (folders: {folders})" if folders else ""
        unused = count_unused(root, {*map(str, find_images(root, flat=False).values())})
        return "; ".join([f"{which} in {root} has a mask", f"found: {found}", *unused, rule])
    near = ((mask, difflib.get_close_matches(mask.stem, photos, n=1, cutoff=0.3)) for mask in masks[:50])
    mask, stem = next(((mask, stems[0]) for mask, stems in near if stems), (masks[0], next(iter(photos))))
    image = photos[stem]
    same = difflib.SequenceMatcher(None, stem, mask.stem).find_longest_match()
    images, drawn = (
        (path.parent.relative_to(root) / f"{path.stem[:start]}*{path.stem[start + same.size :]}{path.suffix}").as_posix()
        for path, start in ((image, same.a), (mask, same.b))
    )
    return (
        f"{which} in {root} has a mask; the nearest are the image {image.relative_to(root)} and the mask {mask.relative_to(root)}; {rule}."
        f" Else say it with patterns, * for the same text in both: new-config {root} --images '{images}' --masks '{drawn}', or give a"
        " list file of lines image<TAB>mask instead of the folder"
    )
