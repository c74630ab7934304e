"""Files of a folder that nothing is made of: what they are, and how they would be used."""

import difflib
from collections.abc import Collection
from pathlib import Path

from ..data.images import IMAGE_ENDINGS
from ..data.lists import list_images, list_names, printable, walk_folders
from ..data.pairing import BESIDE, holds_ids, remove_tag
from ..data.trees import Pairs
from ..errors import plural
from ..rasterize.formats import MOST, file_format, polygon_format
from .class_files import CLASS_FILES

TEXTS = (".txt", ".csv", ".md")
CURES = {
    (".heic", ".heif"): "convert them to JPEG",
    (".mp4", ".mov", ".avi", ".mkv", ".webm"): "take single frames out of them (ffmpeg -i VIDEO -r 1 %05d.png)",
    (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar"): "unpack them",
    (".json", ".xml"): "if they hold polygons, s4former rasterize draws these as masks",
    (".cr2", ".nef", ".arw", ".dng", ".raw"): "develop them to TIFF or JPEG",
    (".npy", ".npz", ".mat"): "save them as TIFF or PNG",
    (".nii", ".nii.gz", ".mha", ".nrrd", ".dcm"): "save the slices as PNG, in nnU-Net's tree imagesTr/CASE_0000.png and labelsTr/CASE.png",
}


def count_unused(root: Path, used: Collection[str]) -> list[str]:
    """Remarks on the files of a folder that nothing is taken from, counted by ending, each with what to do."""
    unused = [root / f"{place}{name}" for place, names in walk_folders(root, hidden=True) for name in names]
    unused = [path for path in unused if str(path) not in used and path.suffix.lower() not in TEXTS]
    hidden = [path for path in unused if any(part.startswith(".") for part in path.relative_to(root).parts)]
    kinds: dict[str, list[Path]] = {"hidden": hidden} if hidden else {}
    drawn = any(path.name == "ids.json" for path in unused)  # by `s4former rasterize`, of files that then are used
    known = {*CLASS_FILES, "ids.json", *(["data.yaml"] if drawn else [])}
    for path in (path for path in unused if path not in hidden and path.name not in known):
        ending = ".nii.gz" if path.name.lower().endswith(".nii.gz") else path.suffix.lower()
        kinds.setdefault(ending or "without an ending", []).append(path)
    remarks = []
    for kind, paths in sorted(kinds.items()):
        if drawn and all(file_format(path) for path in paths[:MOST]):
            continue
        cure = next((cure for endings, cure in CURES.items() if kind in endings), "no kind of file that is read here")
        cure = "hidden files are no photos" if kind == "hidden" else cure
        cure = "neither a photo of a part (such as unlabeled/) nor the mask of one" if kind in IMAGE_ENDINGS else cure
        remarks.append(f"not used: {plural(len(paths), 'file')} ({kind}), the first: {printable(paths[0].name)}; {cure}")
    return remarks


def describe_unpaired(root: Path, pairs: Pairs, which: str) -> str:
    """Why no image has a mask: what was found, what comes nearest to a pair, and the rule. which: "no image"."""
    if root.is_dir() and (kind := polygon_format(root)):
        return f"{root} holds annotations of {kind} and no masks; draw them first: s4former rasterize {root}, then this again"
    used = {path for name in pairs.masks for path in (pairs.images[name], pairs.masks[name])}
    files = [path for path in list_images(root) if path not in used]
    rule = (
        "a mask has the name of its image, with or without a tag such as _mask, in a folder masks/ (labels/, annotations/) beside the"
        " images or images/, or lies beside its image as X_mask.png; see docs/own_images.md for other trees"
    )
    masks = pairs.spare or [path for path in files if any(remove_tag(path.stem, tag) != path.stem for tag in BESIDE)]
    masks = masks or [path for path in files if holds_ids(path)]
    photos = [path for path in files if path not in set(masks)]
    if not masks or not photos:
        there = ", ".join(f"{name}/" for name in list_names(root)[:8] if (root / name).is_dir())
        what = f"{plural(len(masks), 'mask')}, but not their images"
        what = what if masks else f"{plural(len(photos), 'image')} and no file that may be a mask"
        others = "".join(f"; {remark}" for remark in count_unused(root, {*map(str, list_images(root))}))
        return f"{which} in {root} has a mask; found: {what}{f' (folders: {there})' if there else ''}{others}; {rule}"
    by_stem = {path.stem: path for path in photos}
    mask, photo = next(
        (
            (mask, by_stem[near[0]])
            for mask in masks[:50]
            if (near := difflib.get_close_matches(mask.stem, by_stem, n=1, cutoff=0.3))
        ),
        (masks[0], photos[0]),
    )
    same = difflib.SequenceMatcher(None, photo.stem, mask.stem).find_longest_match()
    patterns = [
        (path.parent.relative_to(root) / f"{path.stem[:start]}*{path.stem[start + same.size :]}{path.suffix}").as_posix()
        for path, start in ((photo, same.a), (mask, same.b))
    ]
    return (
        f"{which} in {root} has a mask; the nearest are the image {photo.relative_to(root)} and the mask"
        f" {mask.relative_to(root)}; {rule}. Else say it with patterns, * for the same text in both: new-config {root} --images '{patterns[0]}' --masks"
        f" '{patterns[1]}', or give a list file of lines image<TAB>mask instead of the folder"
    )
