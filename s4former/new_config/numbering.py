"""Which ids of the masks are which classes: from what the masks hold and the names a user has, to keys of the config."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from ..config import IGNORE_INDEX
from ..data.masks import hex_colour
from ..errors import DataError, join_first, plural
from .contents import Contents

VOID = {"void", "ignore", "ignored", "unlabeled", "unlabelled", "unknown", "dontcare", "don't care", "no label"}
TOP_IDS = (255, 65535)  # of masks of 8 and 16 bits
NAME_FILES = ("classes.json", "classes.txt")
PALETTE_FILES = ("palette.json", "class_dict.csv", "labelmap.txt", "label_colors.txt")
MOST_CLASSES = 64  # more ids than this without names are no classes
COLOUR_LINE = re.compile(r"(\d{1,3})[\s,]+(\d{1,3})[\s,]+(\d{1,3})")


@dataclass(frozen=True, kw_only=True)
class Numbering:
    """The classes of a config, and how the ids of the masks become theirs."""

    classes: tuple[str, ...]
    class_of: dict[int, int]  # id in the masks -> class, 255 = no label
    remarks: tuple[str, ...] = ()  # sentences about what was taken for what

    def data_keys(self) -> dict[str, Any]:
        """data.classes, data.id_map and data.ignore_index, without those at their defaults."""
        id_map = {str(raw): index for raw, index in self.class_of.items() if index not in (raw, IGNORE_INDEX)}
        void = sorted(raw for raw, index in self.class_of.items() if index == IGNORE_INDEX)
        ignore_index = IGNORE_INDEX
        if self.class_of.get(IGNORE_INDEX, IGNORE_INDEX) != IGNORE_INDEX:
            ignore_index = IGNORE_INDEX - 1  # 255 is a class, so another id has to be the ignored one
        elif len(void) == 1 and void[0] >= len(self.classes):
            ignore_index = void[0]
        else:
            id_map |= {str(raw): IGNORE_INDEX for raw in void if raw != IGNORE_INDEX}
        keys = {"classes": list(self.classes), "id_map": id_map, "ignore_index": ignore_index}
        return {key: value for key, value in keys.items() if value not in ({}, IGNORE_INDEX)}


def number_classes(masks: Iterable[Contents], names: Sequence[str], ignored: Sequence[int]) -> Numbering:
    """Decides which ids are classes.

    Args:
        names: class names in the order of their ids; empty = not known.
        ignored: ids that the user says are no class.

    Raises:
        DataError: the masks hold colours, names and ids do not fit, or the ids look like grey values.
    """
    pixels, colours = Counter(), Counter()
    for mask in masks:
        pixels.update(mask.pixels)
        colours.update(mask.colours)
    if colours:
        raise DataError(ask_for_palette(colours))
    ids = sorted(pixels)
    if ids in ([0, 255], [255]) and 255 not in ignored:
        return binary_numbering(names)
    # the id that looks like no label: the highest a PNG can hold, or the only one without a name, if it is the last
    top = {index for index in TOP_IDS if index in ids and index >= len(names)}
    guessed = top or {index for index in ids[-1:] if names and index == len(names)}
    void = {index for index, name in enumerate(names) if name.lower() in VOID} | guessed
    remarks = [f"id {index} is taken as no label; it is neither learned nor tested" for index in sorted(void & set(ids))]
    void |= set(ignored)
    kept = [index for index in ids if index not in void]
    if len(kept) > MOST_CLASSES and not names:
        share = (pixels[0] + pixels[255]) / pixels.total()
        smooth = f" ({share:.1%} of the pixels are 0 or 255: a mask with smoothed edges, or from a JPEG)" if share > 0.8 else ""
        raise DataError(
            f"the masks hold {len(kept)} different values, such as {join_first(kept[1:])}; they look like grey values, not"
            f" class ids{smooth}. Save them as PNGs of ids without smoothing, or name the classes with --classes"
        )
    named = name_ids(kept, void, names, remarks)
    if len(named) < 2:
        raise DataError(
            f"the masks show {plural(len(named), 'class')} only ({join_first(ids)}); two are needed, of which one may be the"
            " background"
        )
    class_of = {raw: index for index, raw in enumerate(sorted(named))} | dict.fromkeys(sorted(void), IGNORE_INDEX)
    return Numbering(classes=tuple(named[raw] for raw in sorted(named)), class_of=class_of, remarks=tuple(remarks))


def name_ids(kept: Sequence[int], void: set[int], names: Sequence[str], remarks: list[str]) -> dict[int, str]:
    """The name of every id that is a class; adds to the remarks what was taken for what."""
    if not names:
        remarks.append(
            "the classes have no names yet: give them with --classes, or in classes.txt, a line each. If an id means no label,"
            " say so with --ignore ID"
        )
        return {index: f"class {index}" for index in kept}
    named = {index: name for index, name in enumerate(names) if index not in void}
    if not set(kept) <= set(named) and len(kept) == len(named):  # such as 0, 50, 100 for three names
        remarks.append(f"the ids {join_first(kept)} are given the names in their order")
        named = dict(zip(kept, named.values()))
    if strange := [index for index in kept if index not in named]:
        raise DataError(
            f"the masks have the id{'s' if len(strange) > 1 else ''} {join_first(strange)}, and {plural(len(names), 'name')}"
            f" are given, for 0 to {len(names) - 1}; name every id, or say which is no class with --ignore"
        )
    return named


def binary_numbering(names: Sequence[str]) -> Numbering:
    """Masks of 0 and 255: the usual way to draw one thing, and a trap, since 255 means no label elsewhere."""
    if len(names) not in (0, 2):
        raise DataError(f"the masks hold 0 and 255 alone, and {plural(len(names), 'name')} are given; give two")
    names = tuple(names) or ("background", "foreground")
    remark = f"the masks hold 0 and 255 alone: 255 is read as class 1, {names[1]} (data.id_map), and nothing is ignored"
    return Numbering(classes=names, class_of={0: 0, 255: 1}, remarks=(remark,))


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


# ---- names and colours in files


def read_classes(root: Path, names: Sequence[str], palette: str) -> tuple[dict[str, int], Sequence[str]]:
    """The palette, "#rrggbb" -> id, and the class names, as far as the options or files in the folder give them."""
    places = [Path(palette)] if palette else [root / name for name in PALETTE_FILES if (root / name).is_file()]
    if not places:
        return {}, names or read_names(root)
    if not places[0].is_file():
        raise DataError(f"there is no palette file {places[0]}; give one with --palette FILE")
    colours = read_palette(places[0])
    names = list(dict.fromkeys(colours.values()))  # several colours may have one name
    return {colour: names.index(name) for colour, name in colours.items()}, names


def read_names(root: Path) -> list[str]:
    """The class names of classes.json or classes.txt in a folder, id 0 first; none if there is no such file."""
    path = next((root / name for name in NAME_FILES if (root / name).is_file()), None)
    if path is None:
        return []
    if path.suffix == ".txt":
        return [line.strip() for line in path.read_text().splitlines() if line.strip()]
    names = read_json(path, list[str] | dict[str, str], 'write a list, ["sky", "road"], or {"0": "sky", "1": "road"}')
    return list(names.values()) if isinstance(names, dict) else names


def read_palette(path: Path) -> dict[str, str]:
    """ "#rrggbb" -> class name, from JSON {"name": "#rrggbb"} or a text with a name and three numbers a line.

    The second is what CamVid's label_colors.txt, CVAT's labelmap.txt and class_dict.csv are.
    """
    rule = 'write {"sky": "#8080c0", ...}, or a line for each class with its name, red, green and blue'
    colours = {}
    if path.suffix == ".json":
        content = read_json(path, dict[str, Annotated[str, Field(pattern="^#[0-9a-fA-F]{6}$")]], rule)
        colours = {colour.lower(): name for name, colour in content.items()}
    else:
        matches = ((line, COLOUR_LINE.search(line)) for line in path.read_text().splitlines() if not line.startswith("#"))
        for line, match in ((line, match) for line, match in matches if match):
            if max(map(int, match.groups())) > 255:
                raise DataError(f"{path} is no palette: {match[0]!r} is no colour; {rule}")
            before, after = (text.strip(" \t,:;") for text in (line[: match.start()], line[match.end() :]))
            colours["#" + bytes(map(int, match.groups())).hex()] = before or after or match[0]
    if not colours:
        raise DataError(f"{path} is no palette: it names no colour; {rule}")
    return colours


def read_json(path: Path, kind: Any, rule: str) -> Any:
    """The content of a JSON file, if it is of this type; `DataError` with the rule else."""
    try:
        return TypeAdapter(kind).validate_json(path.read_bytes())
    except ValidationError as error:
        wrong = error.errors()[0]
        place = "".join(f" {key}:" for key in wrong["loc"] if isinstance(key, str) and "[" not in key)
        raise DataError(f"{path}:{place} {wrong['msg']}; {rule}") from None
