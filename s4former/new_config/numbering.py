"""Which ids of the masks are which classes: from what the masks hold and the names a user has, to keys of the config."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from ..config import IGNORE_INDEX
from ..data.class_names import VOID
from ..data.lists import read_csv
from ..data.masks import hex_colour
from ..errors import DataError, join_first, plural
from ..files import read_text
from .contents import Contents
from .pairs import NAME_FILES, PALETTE_FILES

TOP_IDS = (255, 65535)  # of masks of 8 and 16 bits
MOST_CLASSES = 64  # more ids than this without names are no classes
Names = Sequence[str] | dict[int, str]
THREE_NUMBERS = r"(?<![\w.])(\d{1,3})[\s,]+(\d{1,3})[\s,]+(\d{1,3})(?![\w.])"
COLOUR_LINE = re.compile(rf"\s*{THREE_NUMBERS}|.*{THREE_NUMBERS}")  # at the beginning of a line, else the last ones in it
RGB_COLUMNS = (["r", "g", "b"], ["red", "green", "blue"])


@dataclass(frozen=True, kw_only=True)
class Numbering:
    """The classes of a config, and how the ids of the masks become theirs."""

    classes: tuple[str, ...]
    class_of: dict[int, int]  # id in the masks -> class, 255 = no label
    remarks: tuple[str, ...] = ()  # sentences about what was taken for what

    def data_keys(self) -> dict[str, Any]:
        """data.classes, data.id_map and data.ignore_index, without those at their defaults."""
        id_map = {str(raw): index for raw, index in self.class_of.items() if index not in (raw, IGNORE_INDEX)}
        void = sorted(raw for raw, index in self.class_of.items() if index == IGNORE_INDEX and raw >= 0)
        ignore_index = IGNORE_INDEX
        if self.class_of.get(IGNORE_INDEX, IGNORE_INDEX) != IGNORE_INDEX:
            ignore_index = IGNORE_INDEX - 1  # 255 is a class, so another id has to be the ignored one
        elif len(void) == 1 and void[0] >= len(self.classes):
            ignore_index = void[0]
        else:
            id_map |= {str(raw): IGNORE_INDEX for raw in void if raw != IGNORE_INDEX}
        keys = {"classes": list(self.classes), "id_map": id_map, "ignore_index": ignore_index}
        return {key: value for key, value in keys.items() if value not in ({}, IGNORE_INDEX)}


def number_classes(masks: Iterable[Contents], names: Names, ignored: Collection[int]) -> Numbering:
    """Decides which ids are classes: all ids are counted first, and N ids for N names are N classes in their order.

    Args:
        names: class names, in the order of their ids or by id; empty = not known.
        ignored: ids that the user says are no class. Negative ids never are.

    Raises:
        DataError: the masks hold colours, names and ids do not fit or fit in two ways, or the ids look like grey values.
    """
    pixels, colours, images, stated = Counter(), Counter(), {}, []
    for mask in masks:
        images |= dict.fromkeys(mask.pixels.keys() - images.keys(), Path(mask.mask).name)
        stated += [mask.stated] if mask.stated and mask.stated not in stated else []
        pixels.update(mask.pixels)
        colours.update(mask.colours)
    if colours:
        raise DataError(ask_for_palette(colours))
    remarks: list[str] = []
    if stated and not isinstance(names, dict):
        names, ignored = stated_names(stated, names, remarks), {*ignored, stated[0].get("", IGNORE_INDEX)}
    named = name_ids([index for index in sorted(pixels) if index >= 0], names, ignored, images, remarks)
    if len(named) > MOST_CLASSES and not names:
        share = (pixels[0] + pixels[255]) / pixels.total()
        smooth = f" ({share:.1%} of the pixels are 0 or 255: a mask with smoothed edges, or from a JPEG)" if share > 0.8 else ""
        raise DataError(
            f"the masks hold {len(named)} different values, such as {join_first(list(named)[1:])}; they look like grey values,"
            f" not class ids{smooth}. Save them as PNGs of ids without smoothing, or name the classes with --classes"
        )
    void = {index for index in (*pixels, *named, *ignored) if index in ignored or named.get(index, "void").lower() in VOID}
    for index in sorted(void):
        why = ["--ignore"] if index in ignored else []
        why += [f"and with it the name {named[index]}"] if index in named else []
        because = f" ({', '.join(why)})" if why else ""
        share = pixels[index] / pixels.total()
        remarks.append(f"id {index} is taken as no label{because}: {share:.2%} of the pixels, neither learned nor tested")
    named = {index: named[index] for index in sorted(named) if index not in void}
    if len(named) < 2:
        raise DataError(
            f"the masks show {plural(len(named), 'class')} only ({join_first(sorted(pixels))}); two are needed, of which one"
            " may be the background"
        )
    class_of = {raw: index for index, raw in enumerate(named)} | dict.fromkeys(sorted(void), IGNORE_INDEX)
    for index in (index for index in named if index in TOP_IDS):
        remarks.append(f"{index} is read as class {class_of[index]}, {named[index]} (data.id_map), and not as no label")
    return Numbering(classes=tuple(named.values()), class_of=class_of, remarks=tuple(remarks))


def stated_names(stated: Sequence[dict[str, int]], names: Sequence[str], remarks: list[str]) -> dict[int, str]:
    """The name of every id, as masks that s4former wrote state it; `DataError` if they differ, or are not the names given."""
    known = {index: name for name, index in stated[0].items() if name}
    if len(stated) > 1 or names and list(names) != list(known.values()):
        other = f"others state {stated[1]}" if len(stated) > 1 else f"the names given are {join_first(names)}"
        raise DataError(f"some masks were written by s4former and state the ids {stated[0]}, but {other}; use masks of one kind")
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
            by_id = " ".join(f"{index}={name}" for index, name in zip(kept, names))
            raise DataError(
                f"the masks hold the ids {join_first(kept)}, and {len(names)} names are given: {top[-1]} may mean no label, or"
                f" be {names[-1]}; say which: --ignore {top[-1]}, or --classes {by_id}"
            )
        counted = (kept, below, [index for index in ids if index not in TOP_IDS or index not in ignored])
        if found := next((each for each in counted if len(each) == len(names)), None):
            named = dict(zip(found, names))
            if found != list(range(len(names))):
                remarks.append(f"the ids {join_first(found)} are given the names in their order")
    strange = [index for index in kept if index not in named and index not in top]
    if strange:
        raise DataError(
            f"the masks have the id{'s' if len(strange) > 1 else ''} {join_first(strange)} (the first in"
            f" {shown_in[strange[0]]}), and {plural(len(names), 'name')}"
            f" are given, for {join_first(list(named))}; name every id, or say that it means no label: --ignore"
            f" {' '.join(map(str, strange[:8]))}"
        )
    return dict(named)


def evenly_spread(ids: Sequence[int]) -> bool:
    """Whether ids are grey values from 0 to 255 at equal distances, such as 0, 128, 255."""
    return ids[-1:] == [255] and 1 < len(ids) < 64 and all(
        abs(index - 255 * place / (len(ids) - 1)) <= 1 for place, index in enumerate(ids)
    )


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


def read_classes(root: Path, options: Sequence[str], palette: str) -> tuple[dict[str, int], Names]:
    """The palette, "#rrggbb" -> id, and the class names, as far as the options or files in the folder give them."""
    places = [Path(palette)] if palette else [root / name for name in PALETTE_FILES if (root / name).is_file()]
    if not places:
        by_id = [re.fullmatch(r"(\d+)=(.+)", name) for name in options]
        return {}, {int(each[1]): each[2] for each in by_id} if options and all(by_id) else options or read_names(root)
    if not places[0].is_file():
        raise DataError(f"there is no palette file {places[0]}; give one with --palette FILE")
    colours = read_palette(places[0])
    names = list(dict.fromkeys(colours.values()))  # several colours may have one name
    return {colour: names.index(name) for colour, name in colours.items()}, dict(enumerate(names))


def read_names(root: Path) -> Names:
    """The class names of classes.json or classes.txt in a folder, in the order of their ids or by id; none without a file."""
    path = next((path for name in NAME_FILES for path in sorted(root.glob(name))), None)
    if path is None:
        return []
    if path.suffix == ".txt":
        return [line.strip() for line in read_text(path).splitlines() if line.strip()]
    if path.suffix == ".csv":  # of Roboflow, with a heading: Pixel Value, Class
        return {int(row[0]): row[1] for row in read_csv(path) if len(row) > 1 and row[0].isdecimal()}
    names = read_json(path, list[str] | dict[int, str], 'write a list, ["sky", "road"], or {"0": "sky", "1": "road"}')
    return [names[index] for index in range(len(names))] if set(names) == set(range(len(names))) else names


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
        for name, numbers in csv_colours(path) if path.suffix.lower() == ".csv" else line_colours(path):
            if max(numbers) > 255:
                raise DataError(f"{path} is no palette: {join_first(numbers)} is no colour; {rule}")
            colours["#" + bytes(numbers).hex()] = name or join_first(numbers)
    if not colours:
        raise DataError(f"{path} is no palette: it names no colour; {rule}")
    return colours


def line_colours(path: Path) -> Iterator[tuple[str, list[int]]]:
    """Name, and red, green and blue, of every line of a text that has three numbers."""
    for line in read_text(path).splitlines():
        if (match := COLOUR_LINE.match(line)) and not line.startswith("#"):
            groups = [place for place in range(1, 7) if match[place]]
            rest = line[: match.start(groups[0])], line[match.end(groups[-1]) :]
            before, after = (text.strip(" \t,:;") for text in rest)
            yield before or after, [int(match[place]) for place in groups]


def csv_colours(path: Path) -> Iterator[tuple[str, list[int]]]:
    """The same of every row of a CSV: by the columns that its heading names, else the last three are the colour."""
    rows = read_csv(path)
    header = [cell.lower() for cell in rows[0]] if rows else []
    colour = next(([header.index(name) for name in names] for names in RGB_COLUMNS if set(names) <= set(header)), None)
    for row in rows:
        places = colour or range(len(row) - 3, len(row))
        others = [cell for place, cell in enumerate(row) if place not in places]
        if others and all(place < len(row) and row[place].isdecimal() for place in places):
            yield next((cell for cell in others if not cell.isdecimal()), others[0]), [int(row[place]) for place in places]


def read_json(path: Path, kind: Any, rule: str) -> Any:
    """The content of a JSON file, if it is of this type; `DataError` with the rule else."""
    try:
        return TypeAdapter(kind).validate_json(read_text(path))
    except ValidationError as error:
        wrong = error.errors()[0]
        place = "".join(f" {key}:" for key in wrong["loc"] if isinstance(key, str) and "[" not in key)
        raise DataError(f"{path}:{place} {wrong['msg']}; {rule}") from None
