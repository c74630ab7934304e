"""What was found in a folder of photos and what is proposed for it, as text."""

import json
import textwrap
from collections.abc import Sequence
from typing import Any

from ..config import IGNORE_INDEX
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
    ("schedule", "steps"), ("method", "burn_in"),
)  # fmt: skip


def describe_photos(photos: Photos, contents: dict[str, Contents], numbering: Numbering) -> list[str]:
    """Lines of a short table: parts, classes, remarks."""
    lines = [str(photos.root), "", f"{'':14}{'images':>7}  width x height"]
    for part, rows in photos.parts.items():
        lines.append(f"  {PART_NAMES[part]:12}{len(rows):7d}  {describe_sizes([contents[row.image].size for row in rows])}")
    labeled, held = (
        count_classes([contents[row.image] for row in photos.parts[part]], numbering) for part in ("labeled", "validation")
    )
    width = max(12, *(len(name) for name in numbering.classes))
    lines += ["", f"  {'class':{width}}   id   labelled pixels   in images   evaluation pixels"]
    total, rare, absent = len(photos.parts["labeled"]), [], []
    for index, name in [*enumerate(numbering.classes), (IGNORE_INDEX, "(no label)")]:
        (share, images), (held_share, _) = labeled.get(index, (0.0, 0)), held.get(index, (0.0, 0))
        shown = "" if index == IGNORE_INDEX else str(index)
        if shown or share or held_share:
            lines.append(f"  {name:{width}}  {shown:>3}  {share:15.2%}  {images:5d}/{total:<5d}{held_share:17.2%}")
        if shown and not share and not held_share:
            absent.append(f"{name} (id {next(raw for raw, each in numbering.class_of.items() if each == index)})")
        elif shown and is_rare(images, share, total):
            rare.append(name)
    remarks = [*numbering.remarks, *photos.remarks, *more_remarks(photos, contents, len(numbering.classes), rare, absent)]
    wrap = textwrap.TextWrapper(110, break_long_words=False, initial_indent="  - ", subsequent_indent="    ")
    return [*lines, "", *map(wrap.fill, remarks), *([""] if remarks else [])]


def more_remarks(photos: Photos, contents: dict[str, Contents], classes: int, rare: Sequence[str], absent: Sequence[str]) -> list[str]:
    """What should be read before training, a sentence each."""
    modes = {each.mode for each in contents.values()}
    deep = any(map(is_deep, modes))
    odd = [each for each in contents.values() if each.bands not in (0, 1, 3, 4)]
    held = len(photos.parts["validation"])
    remarks = {
        f"{join_first(absent)} {'is' if len(absent) == 1 else 'are'} in no mask: are the names and their order right?": absent,
        f"rare among the labels: {join_first(rare)}; more labels of them help most. Otherwise: --class-weights here,"
        " data.repeat_rare=0.5": rare,
        "two classes: NCR would always be 0 and is left out": classes == 2,
        f"a score over {plural(held, 'evaluation image')} says little about other photos": held < FEW_EVALUATED,
        "there are no unlabelled images: the config trains on labels alone (method.teacher=none)": not photos.parts["unlabeled"],
        "images of more than 8 bits are read between two grey values (data.levels)": deep,
        f"{plural(len(odd), 'TIFF')} of {odd[0].bands if odd else 0} bands are read by their first band or three; save what is red, green and blue"
        " if these are others": odd,
        "grey images are read as RGB with three equal channels": modes & {"L", "1", "LA"} and not deep,
    }
    return [remark for remark, applies in remarks.items() if applies]


def describe_sizes(sizes: Sequence[tuple[int, int]]) -> str:
    """'480x360', or '300x200 to 4000x3000 (12 sizes)'."""
    if not sizes:
        return "-"
    different = sorted(set(sizes), key=lambda size: size[0] * size[1])
    (low, high), count = (different[0], different[-1]), len(different)
    return f"{low[1]}x{low[0]}" + (f" to {high[1]}x{high[0]} ({count} sizes)" if count > 1 else "")


def describe_proposal(tree: dict[str, dict[str, Any]], machine: Machine) -> list[str]:
    """The main values that the config sets for this machine, each with its note."""
    lines = [f"Proposed for {machine.description} (beside each value in the file stands why):", ""]
    for section, name in SHOWN:
        if name in tree[section]:
            value, why = json.dumps(tree[section][name]), tree[section][f"{name}.note"]
            lines.append(textwrap.fill(f"{section}.{name} = {value}: {why}", 110, initial_indent="  ", subsequent_indent="    "))
    return lines
