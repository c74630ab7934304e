"""Which ids of the masks are which classes: from what the masks hold and the names a user has, to keys of the config."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..config import IGNORE_INDEX
from ..data.class_names import VOID
from ..data.masks import LARGEST_ID, hex_colour, two_binaries
from ..errors import DataError, join_first, plural
from .class_files import Names
from .contents import Contents

TOP_IDS = (255, 65535)  # of masks of 8 and 16 bits
MOST_COUNTS = 6  # as many numbers of ids, 1 to n, are not those of classes
MOST_CLASSES = 64  # more ids than this without names are no classes


@dataclass(frozen=True, kw_only=True)
class Numbering:
    """The classes of a config, and how the ids of the masks become theirs."""

    classes: tuple[str, ...]
    class_of: dict[int, int]  # id in the masks -> class, 255 = no label
    remarks: tuple[str, ...] = ()  # sentences about what was taken for what
    reason: str = ""  # why the classes have these names

    def data_keys(self) -> dict[str, Any]:
        """data.classes, data.id_map and data.ignore_index, without those at their defaults."""
        # where 255 is a class, another id has to be the ignored one
        ignore_index = IGNORE_INDEX - (self.class_of.get(IGNORE_INDEX, IGNORE_INDEX) != IGNORE_INDEX)
        items = [(raw, index) for raw, index in self.class_of.items() if raw >= 0 and (raw, index) != (ignore_index, IGNORE_INDEX)]
        moved = any(index not in (raw, IGNORE_INDEX) for raw, index in items)  # then all classes are named, so that no other ids are some
        id_map = {str(raw): index for raw, index in items if moved or raw != index}
        keys = {"classes": list(self.classes), "id_map": id_map, "ignore_index": ignore_index}
        return {key: value for key, value in keys.items() if value not in ({}, IGNORE_INDEX)}


def number_classes(masks: Iterable[Contents], names: Names, ignored: Mapping[int, str]) -> Numbering:
    """Decides which ids are classes: all ids are counted first, and N ids for N names are N classes in their order.

    names: in the order of their ids or by id; empty = not known. ignored: ids that are no class, as negative ones, with who says so.
    `DataError` if the masks hold colours, names and ids do not fit or fit in two ways, or the ids look like grey values.
    """
    pixels, colours, images, stated = Counter(), Counter(), {}, []
    for mask in (masks := list(masks)):
        images |= dict.fromkeys(mask.pixels.keys() - images.keys(), Path(mask.mask).name)
        stated += [mask.stated] if mask.stated and mask.stated not in stated else []
        pixels.update(mask.pixels)
        colours.update(mask.colours)
    if colours:
        raise DataError(ask_for_palette(colours))
    if not isinstance(names, dict) and 255 not in ignored:
        refuse_two_binaries(masks, len(names) in (0, 2))
    remarks: list[str] = []
    if not isinstance(names, dict) and len(pixels) > max(2, len(names)) and number_objects(masks):
        if len(names) != 2:
            raise DataError(
                "the ids of nearly every mask are 1, 2, 3 and so on up to another number: objects seem to be numbered in them, not"
                " classes; give two names, --classes background NAME, and all ids above 0 are the second, or name every id"
            )
        remarks.append(f"the masks number objects: all ids above 0 are {names[1]}")
        names = {index: names[index > 0] for index in (0, *pixels) if index >= 0 and index not in TOP_IDS}
    if stated and not isinstance(names, dict):
        ignored = {stated[0].get("", IGNORE_INDEX): "", **ignored}
        if not names and not all(mask.stated for mask in masks if mask.mask):
            raise DataError(
                f"some masks were written by s4former and state the ids {stated[0]}, the others state none; give the names of theirs in the"
                " order of their ids, --classes NAME NAME ..., which `s4former rasterize` takes as well"
            )
        names = stated_names(stated, names, {index: name for index, name in images.items() if index not in ignored}, remarks)
    named = name_ids([index for index in sorted(pixels) if index >= 0], names, ignored, images, remarks)
    reason = "; ".join(remarks)
    if len(named) > MOST_CLASSES and not names:
        share = (pixels[0] + pixels[255]) / pixels.total()
        smooth = f" ({share:.1%} of the pixels are 0 or 255: a mask with smoothed edges, or from a JPEG)" if share > 0.8 else ""
        raise DataError(
            f"the masks hold {len(named)} different values, such as {join_first(list(named)[1:])}; they look like grey values,"
            f" not class ids{smooth}. Save them as PNGs of ids without smoothing, or name the classes with --classes"
        )
    void = sorted(index for index in {*pixels, *named, *ignored} if index in ignored or named.get(index, "void").lower() in VOID)
    remarks += describe_void(void, named, ignored, pixels)
    named = {index: named[index] for index in sorted(named) if index not in void}
    if len(named) < 2:
        raise DataError(
            f"the masks show {plural(len(named), 'class')} only ({join_first(sorted(pixels))}); two are needed, of which one"
            " may be the background"
        )
    titles = [*dict.fromkeys(named.values())] if isinstance(names, dict) else [*named.values()]  # ids may share a name
    class_of = {raw: titles.index(name) for raw, name in named.items()} | dict.fromkeys(void, IGNORE_INDEX)
    for index in (index for index in named if index in TOP_IDS):
        remarks.append(f"{index} is read as class {class_of[index]}, {named[index]} (data.id_map), and not as no label")
    return Numbering(classes=tuple(titles), class_of=class_of, remarks=tuple(remarks), reason=reason)


def describe_void(void: Sequence[int], named: Mapping[int, str], ignored: Mapping[int, str], pixels: Counter[int]) -> Iterator[str]:
    """A sentence for the ids of no label that have one reason: who says so, the names that go, their share of the pixels."""
    indices: dict[str, list[int]] = defaultdict(list)
    for index in void:
        reasons = [ignored.get(index), index in named and f"and with it the name {named[index]}"]
        indices[", ".join(filter(None, reasons))].append(index)
    for why, which in indices.items():
        share = sum(pixels[index] for index in which) / pixels.total()
        if why or share:  # else a void id that masks of this package state and do not hold
            found = f"id {which[0]} is" if len(which) == 1 else f"ids {join_first(which)} are"
            found += f" taken as no label{f' ({why})' if why else ''}"
            yield f"{found}: {share:.2%} of the pixels of all masks, neither learned nor tested"


def refuse_two_binaries(masks: Sequence[Contents], two: bool) -> None:
    """`DataError` if 1 may mean 255: no mask holds both, and those with 1 are of one bit, or all are binary and `two` classes wanted."""
    ones = [mask for mask in masks if 1 in mask.pixels]
    binary = all(mask.mask_mode == "1" for mask in ones) or two and all({*mask.pixels} <= {0, 1, 255} for mask in masks)
    if binary and (found := two_binaries([mask.pixels for mask in masks])):
        first = f"the first with 1: {Path(ones[0].mask).name}"
        raise DataError(f"{found} ({first}): if they mean the same, save all masks alike; if 255 means no label, add --ignore 255")


def number_objects(masks: Sequence[Contents]) -> bool:
    """Whether nearly every mask holds the ids 1 to n, and n differs from mask to mask as classes do not."""
    shown = [ids for mask in masks if (ids := {*mask.pixels} - {0, *TOP_IDS})]
    counts = [len(ids) for ids in shown if ids == {*range(1, len(ids) + 1)}]
    return len({*counts}) >= MOST_COUNTS and len(counts) > 0.9 * len(shown)


def stated_names(stated: Sequence[dict[str, int]], names: Sequence[str], held: Mapping[int, str], remarks: list[str]) -> dict[int, str]:
    """The name of every id, as masks that s4former wrote state it; `DataError` if they differ, or fit neither the names nor the ids.

    held: id that is to be a class -> a mask that holds it.
    """
    known = {index: name for name, index in stated[0].items() if name}
    other = sorted(index for index in held if index >= 0 and index not in known)
    problem, repair = "", "use masks of one kind"
    if len(stated) > 1:
        problem = f"others state {stated[1]}"
    elif names and list(names) != list(known.values()):
        problem = f"the names given are {join_first(names)}"
    elif other:
        problem = f"others hold {join_first(other)} (the first: {held[other[0]]})"
        repair += f", or say that it means no label: --ignore {' '.join(map(str, other[:8]))}"
    if problem:
        raise DataError(f"some masks were written by s4former and state the ids {stated[0]}, but {problem}; {repair}")
    remarks.append(f"some masks were written by s4former; all are read in the ids that those state: {known}")
    return known


def name_ids(
    ids: Sequence[int], names: Names, ignored: Collection[int], shown_in: dict[int, str], remarks: list[str]
) -> dict[int, str]:
    """The name of every id; 255 or 65535 that gets none is taken as no label. Adds to the remarks what was taken for what."""
    kept = [index for index in ids if index not in ignored]
    top = [index for index in kept if index in TOP_IDS and index >= len(names)]
    below = [index for index in kept if index not in top]
    if kept == top == [255] or evenly_spread(kept) and not names:  # one thing, or classes drawn as greys
        kept, top = sorted({0, *kept}), []
    if not names:
        remarks.append(
            "the classes have no names yet: give them with --classes, or in classes.txt, a line each. If an id means no label,"
            " say so with --ignore ID"
        )
        return {0: "background", 255: "foreground"} if kept == [0, 255] else {i: f"class {i}" for i in kept if i not in top}
    named = names if isinstance(names, dict) else dict(enumerate(names))
    if not isinstance(names, dict):
        if kept == [0, 255] and len(names) != 2:
            raise DataError(f"the masks hold 0 and 255 alone, and {plural(len(names), 'name')} are given; give two")
        if top and len(kept) == len(names) and 1 < len(below) and below[-1] < len(names) and names[-1].lower() not in VOID:
            raise DataError(
                f"the masks hold the ids {join_first(kept)}, and {len(names)} names are given: {top[-1]} may mean no label, or"
                f" be {names[-1]}; say which: --ignore {top[-1]}, or {by_id(zip(kept, names))}"
            )
        counted = (kept, below, [index for index in ids if index not in TOP_IDS or index not in ignored])
        if found := next((each for each in counted if len(each) == len(names)), None):
            named = dict(zip(found, names))
            if any(index in ignored and name.lower() not in VOID for index, name in named.items()):
                others = (index for index in (*below, *range(max(below, default=0) + 1, LARGEST_ID)) if index not in ignored)
                raise DataError(
                    f"the masks hold the ids {join_first(found)}, of which some are ignored, and {len(names)} names are given: they may"
                    " be those of all ids, or of the classes alone; say which:"
                    f" {by_id(item for item in named.items() if item[0] not in ignored)}, or {by_id(zip(others, names))}"
                )
            if found != list(range(len(names))):
                remarks.append(f"the ids {join_first(found)} are given the names in their order")
    if strange := [index for index in kept if index not in named and index not in top]:
        which = f"id{'s' if len(strange) > 1 else ''} {join_first(strange)} (the first in {shown_in[strange[0]]})"
        found = f"the masks have the {which}, and {plural(len(names), 'name')} are given, for {join_first(list(named))}"
        ignored = " ".join(map(str, strange[:8])) + " ..." * (len(strange) > 8)
        raise DataError(f"{found}; name every id, or say that it means no label: --ignore {ignored}")
    return dict(named)


def by_id(named: Iterable[tuple[int, str]]) -> str:
    return f"--classes {' '.join(f'{index}={name}' for index, name in named)}"


def evenly_spread(ids: Sequence[int]) -> bool:
    """Whether ids are grey values from 0 to 255 at equal distances, such as 0, 128, 255."""
    even = np.linspace(0, 255, len(ids))
    return 1 < len(ids) < 64 and ids[-1] == 255 and bool((abs(even - ids) <= 1).all())


def ask_for_palette(colours: Counter) -> str:
    """What to do about masks of colours without a palette: the colours as a palette file that only needs names."""
    if len(colours) > MOST_CLASSES:
        return (
            f"the masks hold {len(colours)} colours; so many come from a JPEG or from smoothed edges. Save them as PNGs"
            " without smoothing, of ids or of one colour for each class"
        )
    lines = [f'  "name me {place}": "{hex_colour(colour)}"' for place, (colour, _) in enumerate(colours.most_common())]
    return (
        "the masks hold colours. Name them, commonest first here, in a JSON file, and give it with --palette FILE; call what"
        " is no class void:\n{\n" + ",\n".join(lines) + "\n}"
    )


def count_classes(masks: Iterable[Contents], numbering: Numbering) -> dict[int, tuple[float, int]]:
    """Class -> its share of the pixels, and the number of images that show it; 255 = no label."""
    pixels, images = Counter(), Counter()
    for mask in masks:
        counts: Counter = Counter()
        for raw, count in mask.pixels.items():
            counts[numbering.class_of[raw]] += count
        pixels.update(counts)
        images.update(counts.keys())
    return {index: (count / pixels.total(), images[index]) for index, count in pixels.items()}
