"""What was found in a folder of photos and what is proposed for it, as text."""

import json
import math
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from ..data.images import is_deep
from ..data.sources import PART_NAMES, is_rare
from ..errors import join_first, plural
from ..training.machine import Machine
from .contents import Contents
from .numbering import Numbering, count_classes
from .pairs import Photos

FEW_EVALUATED = 10  # images
SHOWN = (  # keys of a proposal that are printed
    ("model", "encoder"), ("data", "crop"), ("data", "resize"), ("method", "block"), ("method", "thresholds"), ("run", "batch"),
    ("schedule", "steps"), ("method", "burn_in"), ("schedule", "restart"),
)  # fmt: skip


def describe_photos(photos: Photos, contents: dict[str, Contents], numbering: Numbering) -> list[str]:
    """Lines of a short table: parts, classes, remarks."""
    lines = [str(photos.root), "", f"{'':14}{'images':>7}  width x height"]
    for part, rows in photos.parts.items():
        lines.append(f"  {PART_NAMES[part]:12}{len(rows):7d}  {describe_sizes([contents[row.image].size for row in rows])}")
    parts = {part: [contents[row.image] for row in photos.parts[part]] for part in ("labeled", "validation")}
    labeled, held = (count_classes(masks, numbering) for masks in parts.values())
    width, total = max(12, *(len(name) for name in numbering.classes)), len(parts["labeled"])
    lines += ["", f"  {'class':{width}}   id   labelled pixels   in images   evaluation pixels"]
    raw = {index: value for value, index in numbering.class_of.items()}
    rare, absent = [], []
    for index, name in enumerate(numbering.classes):
        share, images, held_share = *labeled.get(index, (0.0, 0)), held.get(index, (0.0, 0))[0]
        lines.append(f"  {name:{width}}  {index:3d}  {share:15.2%}  {images:5d}/{total:<5d}{held_share:17.2%}")
        if not share and not held_share:
            absent.append(f"{name} (id {raw[index]})")
        elif is_rare(images, share, total):
            rare.append(name)
    remarks = [*numbering.remarks, *photos.remarks, *more_remarks(photos, contents, len(numbering.classes))]
    if absent:
        verb = "is" if len(absent) == 1 else "are"
        remarks.append(f"{join_first(absent)} {verb} in no mask: are the names and their order right?")
    if rare:
        cure = "more labels of them help most, else --class-weights here, data.repeat_rare=0.5"
        remarks.append(f"rare among the labels: {join_first(rare)}; {cure}")
    wrap = textwrap.TextWrapper(110, break_long_words=False, initial_indent="  - ", subsequent_indent="    ")
    return [*lines, "", *map(wrap.fill, remarks), *([""] if remarks else [])]


def more_remarks(photos: Photos, contents: dict[str, Contents], classes: int) -> Iterator[str]:
    """What should be read before training, a sentence each."""
    if classes == 2:
        yield "two classes: NCR would always be 0 and is left out"
    if (held := len(photos.parts["validation"])) < FEW_EVALUATED:
        yield f"a score over {plural(held, 'evaluation image')} says little about other photos"
    if not photos.parts["unlabeled"]:
        yield "there are no unlabelled images: the config trains on labels alone (method.teacher=none)"
    if any(is_deep(each.mode) for each in contents.values()):
        yield "images of more than 8 bits are read between two grey values (data.levels)"
    if parts := [each.part for each in contents.values() if each.part]:
        yield f"not all is read of {plural(len(parts), 'TIFF')}, of the first {parts[0]}; save by itself what it should be instead"


def describe_sizes(sizes: Sequence[tuple[int, int]]) -> str:
    """'480x360', or '300x200 to 4000x3000'."""
    ordered = sorted(sizes, key=math.prod)
    return " to ".join(dict.fromkeys(f"{width}x{height}" for height, width in ordered[:1] + ordered[-1:])) or "-"


def describe_proposal(tree: dict[str, dict[str, Any]], machine: Machine) -> list[str]:
    """The main values that the config sets for this machine, each with its note."""
    lines = [f"Proposed for {machine.description} (beside each value in the file stands why):", ""]
    for section, name in SHOWN:
        if name in tree[section]:
            value, why = json.dumps(tree[section][name]), tree[section][f"{name}.note"]
            lines.append(textwrap.fill(f"{section}.{name} = {value}: {why}", 110, initial_indent="  ", subsequent_indent="    "))
    return lines
