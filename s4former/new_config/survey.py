"""What was found in a folder of photos and what is proposed for it, in a short table."""

import textwrap
from collections import Counter
from pathlib import Path
from typing import Any, Sequence

from ..config import IGNORE_INDEX
from ..data.sources import PART_NAMES, is_rare
from ..errors import join_first, plural
from ..training.machine import Machine
from .finding import DEEP, Found, Look
from .numbering import Numbering

FEW_TESTED = 10  # evaluation images
WIDTH = 110  # of a line


def describe(root: Path, found: Found, looks: dict[str, Look], numbers: Numbering) -> list[str]:
    """The short table: sets, classes, remarks."""
    lines = [str(root), "", f"{'':14}{'images':>7}  width x height"]
    for part, rows in found.parts.items():
        lines.append(f"  {PART_NAMES[part]:12}{len(rows):7d}  {sizes_in_words([looks[row.image].size for row in rows])}")
    tallies = [tally([looks[row.image] for row in rows], numbers) for rows in (found.labeled, found.validation)]
    width = max(12, *(len(name) for name in numbers.classes))
    lines += ["", f"  {'class':{width}}   id   labelled pixels   in images   evaluation pixels"]
    rare = []
    for index, name in enumerate([*numbers.classes, "(no label)"]):
        key = index if index < len(numbers.classes) else IGNORE_INDEX
        (share, images), (held_share, _) = (counts.get(key, (0.0, 0)) for counts in tallies)
        if key != IGNORE_INDEX or share or held_share:
            shown = "" if key == IGNORE_INDEX else str(index)
            lines.append(f"  {name:{width}}  {shown:>3}  {share:15.2%}  {images:5d}/{len(found.labeled):<5d}{held_share:17.2%}")
        if key != IGNORE_INDEX and is_rare(images, share, len(found.labeled)):
            rare.append(name)
    told = [
        textwrap.fill(remark, WIDTH, break_long_words=False, initial_indent="  - ", subsequent_indent="    ")
        for remark in remarks_on(found, looks, numbers, rare)
    ]
    return [*lines, "", *told, *([""] if told else [])]


def remarks_on(found: Found, looks: dict[str, Look], numbers: Numbering, rare: Sequence[str]) -> list[str]:
    """What should be read before training, a sentence each."""
    remarks = [*numbers.remarks, *found.remarks]
    if rare:
        remarks.append(
            f"rare among the labels: {join_first(rare)}; more labels of them help most. Otherwise: --class-weights here,"
            " data.repeat_rare=0.5"
        )
    if len(numbers.classes) == 2:
        remarks.append("two classes: NCR would always be 0 and is left out")
    if len(found.validation) < FEW_TESTED:
        remarks.append(f"a score over {plural(len(found.validation), 'evaluation image')} says little about other photos")
    if not found.unlabeled:
        remarks.append("there are no unlabelled images: the config trains on labels alone (method.teacher=none)")
    modes = {look.mode for look in looks.values()}
    if modes & DEEP:
        remarks.append("images of more than 8 bits are read between two grey values (data.levels)")
    elif modes & {"L", "1", "LA"}:
        remarks.append("grey images are read as RGB with three equal channels")
    return remarks


def tally(looks: Sequence[Look], numbers: Numbering) -> dict[int, tuple[float, int]]:
    """Class -> its share of the pixels, and the number of images that show it."""
    place = {int(key): value for key, value in numbers.id_map.items()}
    pixels, images = Counter(), Counter()
    for look in looks:
        counts: Counter = Counter()
        for index, count in look.pixels.items():
            index = place.get(index, IGNORE_INDEX if index == numbers.ignore_index else index)
            counts[index] += count
        pixels.update(counts)
        images.update(counts.keys())
    return {index: (count / pixels.total(), images[index]) for index, count in pixels.items()}


def sizes_in_words(sizes: Sequence[tuple[int, int]]) -> str:
    """'480x360', or '300x200 to 4000x3000 (12 sizes)'."""
    if not sizes:
        return "-"
    different = sorted(set(sizes), key=lambda size: size[0] * size[1])
    (low, high), count = (different[0], different[-1]), len(different)
    if count == 1:
        return f"{low[1]}x{low[0]}"
    return f"{low[1]}x{low[0]} to {high[1]}x{high[0]} ({count} sizes)"


def describe_proposal(tree: dict[str, dict[str, Any]], machine: Machine, sizes: Sequence[tuple[int, int]]) -> list[str]:
    """What the config sets, for this machine, and why."""
    data, method, steps = tree["data"], tree["method"], tree["schedule"]["steps"]
    crop, short = data["crop"][0], data["resize"][1]
    largest = max(min(size) for size in sizes)
    fitted = f"photos {'fitted to' if largest > short else 'have'} a shorter side of {short} px"
    lines = [
        f"  model       {tree['model']['encoder']} under {tree['model']['architecture']}",
        f"  crop        {crop} px; {fitted}",
    ]
    if "block" in method:
        lines.append(f"  block       {method['block']} tokens = {crop // 4} px: PatchShuffle moves 4 x 4 of them")
    batch = tree["run"]["batch"]
    pool = f" + {batch['unlabeled']} unlabelled" if "block" in method else ""
    rounds = f", in {batch['rounds']} rounds" if batch["rounds"] > 1 else ""
    lines.append(f"  batch       {batch['labeled']} labelled{pool}{rounds}")
    alone = f", the first {method['burn_in']} on the labels alone" if method.get("burn_in") else ""
    lines.append(f"  steps       {steps}{alone}; evaluated every {tree['evaluation']['every']}")
    if method.get("thresholds") == "per_class":
        lines.append("  threshold   lower for classes the teacher is less sure of, since some are small here")
    if largest > 3 * short:
        lines.append(f"  small things: 30 px of the largest photo become {30 * short / largest:.0f} px; data.resize changes that")
    return [f"Proposed for {machine.words}:", "", *lines]
