"""Which id of the masks is which class: from what the masks hold and the names a user has, to keys of the config."""

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Sequence

from ..config import IGNORE_INDEX
from ..data.masks import hex_colour
from ..errors import DataError, join_first, plural

VOID = {"void", "ignore", "ignored", "unlabeled", "unlabelled", "unknown", "dontcare", "don't care", "no label"}
TOP_IDS = (255, 65535)  # of masks of 8 and 16 bits
NAME_FILES = ("classes.json", "classes.txt")
PALETTE_FILES = ("palette.json", "class_dict.csv", "labelmap.txt", "label_colors.txt")
MANY = 64  # more ids than this without names are no classes
COLOUR_LINE = re.compile(r"(\d{1,3})[\s,]+(\d{1,3})[\s,]+(\d{1,3})")


@dataclass(frozen=True, kw_only=True)
class Numbering:
    """The classes of a config, and how the ids of the masks become theirs."""

    classes: tuple[str, ...]
    id_map: dict[str, int] = field(default_factory=dict)
    ignore_index: int = IGNORE_INDEX
    remarks: tuple[str, ...] = ()  # sentences about what was taken for what

    def keys(self) -> dict[str, Any]:
        """The keys of the section `data`, without those at their defaults."""
        keys: dict[str, Any] = {"classes": list(self.classes)}
        if self.id_map:
            keys["id_map"] = self.id_map
        if self.ignore_index != IGNORE_INDEX:
            keys["ignore_index"] = self.ignore_index
        return keys


def numbering(pixels: Counter, names: Sequence[str], ignored: Sequence[int]) -> Numbering:
    """Decides which ids are classes.

    Args:
        pixels: how often each id comes up in all masks.
        names: class names in the order of their ids; empty = not known.
        ignored: ids that the user says are no class.

    Raises:
        DataError: names and ids do not fit, or the ids look like grey values.
    """
    ids = sorted(pixels)
    if ids in ([0, 255], [255]) and 255 not in ignored:
        return binary(names)
    void = {index for index, name in enumerate(names) if name.lower() in VOID} | guessed(ids, names)
    remarks = [f"id {index} is taken as no label; it is neither learned nor tested" for index in sorted(void & set(ids))]
    void |= set(ignored)
    kept = [index for index in ids if index not in void]
    if len(kept) > MANY and not names:
        raise DataError(
            f"the masks hold {len(kept)} different values, such as {join_first(kept[1:])}; they look like grey values, not class"
            f" ids{share_of_extremes(pixels)}. Save them as PNGs of ids without smoothing, or name the classes with --classes"
        )
    named, more = named_ids(kept, void, names)
    if len(named) < 2:
        raise DataError(
            f"the masks show {plural(len(named), 'class')} only ({join_first(ids)}); two are needed, of which one may be the"
            " background"
        )
    return numbered(named, void, (*remarks, *more))


def named_ids(kept: Sequence[int], void: set[int], names: Sequence[str]) -> tuple[dict[int, str], list[str]]:
    """The name of every id that is a class, and sentences about what was taken for what."""
    remarks = []
    if names:
        named = {index: name for index, name in enumerate(names) if index not in void}
        if not set(kept) <= set(named) and len(kept) == len(named):  # such as 0, 50, 100 for three names
            remarks.append(f"the ids {join_first(kept)} are given the names in their order")
            named = dict(zip(kept, named.values()))
        strange = [index for index in kept if index not in named]
        if strange:
            raise DataError(
                f"the masks have the id{'s' if len(strange) > 1 else ''} {join_first(strange)}, and {plural(len(names), 'name')}"
                f" are given, for 0 to {len(names) - 1}; name every id, or say which is no class with --ignore"
            )
    else:
        named = {index: f"class {index}" for index in kept}
        remarks.append(
            "the classes have no names yet: give them with --classes, or in classes.txt, a line each. If an id means no label,"
            " say so with --ignore ID"
        )
    return named, remarks


def numbered(named: dict[int, str], void: set[int], remarks: tuple[str, ...]) -> Numbering:
    """The numbering of these classes in the order of their ids, with as few keys as will do."""
    places = {index: place for place, index in enumerate(sorted(named))}
    id_map = {str(index): place for index, place in places.items() if index != place}
    ignored = sorted(void)
    first = next((index for index in ignored if index != IGNORE_INDEX), IGNORE_INDEX)
    if len(ignored) > 1 or first in places.values():  # one id is data.ignore_index, several are in the map
        id_map |= {str(index): IGNORE_INDEX for index in ignored if index != IGNORE_INDEX}
        first = IGNORE_INDEX
    return Numbering(classes=tuple(named[index] for index in sorted(named)), id_map=id_map, ignore_index=first, remarks=remarks)


def binary(names: Sequence[str]) -> Numbering:
    """Masks of 0 and 255: the usual way to draw one thing, and a trap, since 255 means no label elsewhere."""
    if len(names) not in (0, 2):
        raise DataError(f"the masks hold 0 and 255 alone, and {plural(len(names), 'name')} are given; give two")
    names = tuple(names) or ("background", "foreground")
    remark = f"the masks hold 0 and 255 alone: 255 is read as class 1, {names[1]} (data.id_map), and nothing is ignored"
    return Numbering(classes=names, id_map={"255": 1}, ignore_index=254, remarks=(remark,))


def guessed(ids: Sequence[int], names: Sequence[str]) -> set[int]:
    """The id that looks like no label: the highest a PNG can hold, or the only one without a name, if it is the last."""
    top = {index for index in TOP_IDS if index in ids and index >= len(names)}
    return top or ({ids[-1]} if names and ids[-1] == len(names) else set())


def share_of_extremes(pixels: Counter) -> str:
    share = (pixels[0] + pixels[255]) / pixels.total()
    return f" ({share:.1%} of the pixels are 0 or 255: a mask with smoothed edges, or from a JPEG)" if share > 0.8 else ""


# ---- names and colours in files


def read_names(root: Path) -> list[str]:
    """The class names of classes.json or classes.txt in a folder, id 0 first; none if there is no such file."""
    for path in (root / name for name in NAME_FILES):
        if path.is_file() and path.suffix == ".txt":
            return [line.strip() for line in path.read_text().splitlines() if line.strip()]
        if path.is_file():
            names = read_json(path)
            names = list(names.values()) if isinstance(names, dict) else names
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise DataError(f'{path} has no class names; write a list, ["sky", "road"], or {{"0": "sky", "1": "road"}}')
            return names
    return []


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is not valid JSON: line {error.lineno}, column {error.colno}: {error.msg}") from None


def read_palette(path: Path) -> dict[str, str]:
    """"#rrggbb" -> class name, from JSON {"name": "#rrggbb"} or a text with a name and three numbers a line.

    The second is what CamVid's label_colors.txt, CVAT's labelmap.txt and class_dict.csv are.
    """
    if path.suffix == ".json":
        content = read_json(path)
        colours = {str(colour).lower(): name for name, colour in content.items()} if isinstance(content, dict) else {}
        wrong = [colour for colour in colours if not re.fullmatch("#[0-9a-f]{6}", colour)]
    else:
        lines = [line for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]
        matches = [(line, match) for line in lines if (match := COLOUR_LINE.search(line))]
        wrong = [match[0] for _, match in matches if max(map(int, match.groups())) > 255]
        colours = {
            hex_colour(int.from_bytes(map(int, match.groups()))): name_in(line, match) for line, match in matches if not wrong
        }
    if wrong or not colours:
        raise DataError(
            f"{path} is no palette" + (f": {wrong[0]!r} is no colour" if wrong else "") + '; write {"sky": "#8080c0", ...},'
            " or a line for each class with its name, red, green and blue"
        )
    return colours


def name_in(line: str, colour: re.Match) -> str:
    """What a line says beside its colour."""
    before, after = line[: colour.start()].strip(" \t,:;"), line[colour.end() :].strip(" \t,:;")
    return before or after or colour[0]
