"""The names and colours of classes in files: those that a user writes, and those of annotation tools and data sets."""

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator, TypeAdapter, ValidationError, create_model

from ..config import Colour
from ..data.class_names import VOID
from ..data.lists import list_lines, read_csv
from ..errors import DataError, join_first
from ..files import read_text

Names = Sequence[str] | dict[int, str]  # in the order of the ids, or by id
THREE_NUMBERS = r"(?<![\w.])(\d{1,3})[\s,]+(\d{1,3})[\s,]+(\d{1,3})(?![\w.])"
COLOUR_LINE = re.compile(rf"\s*{THREE_NUMBERS}|.*{THREE_NUMBERS}")  # at the beginning of a line, else the last ones in it
RGB_COLUMNS = (["r", "g", "b"], ["red", "green", "blue"])
NAMES_RULE = 'write a list, ["sky", "road"], or {"0": "sky", "1": "road"}'
LABELS_RULE = (
    'write {"labels": {"background": 0, "leaf": 1}}; of regions, lists of several ids, name each id by itself, here or with'
    " --classes 0=background 1=edema ..., since every pixel has one class"
)


def of_numbers(value: Any) -> Any:
    """Red, green and blue as "#rrggbb"; anything else as it is."""
    numbers = isinstance(value, list) and len(value) == 3 and all(type(each) is int and 0 <= each <= 255 for each in value)
    return "#" + bytes(value).hex() if numbers else value


class Classes(NamedTuple):
    """What is known of the classes."""

    names: Names = ()
    void: dict[int, str] = {}  # id that is no label -> who says so
    palette: dict[str, int] = {}  # "#rrggbb" -> id, for masks of colours
    origin: str = ""  # who says so


def read_classes(root: Path, options: Sequence[str], palette: str) -> Classes:
    """The classes as far as the options, or files in the folder or in one below it, tell them."""
    if palette:
        if not Path(palette).is_file():
            raise DataError(f"there is no palette file {palette}; give one with --palette FILE")
        found = of_palette(Path(palette))._replace(origin=Path(palette).name)
    else:
        readers = {name: read for name, read in CLASS_FILES.items() if not options or read is of_palette}
        places = (path for name in readers for path in (root / name, *sorted(root.glob(f"*/{name}"))) if path.is_file())
        readings = (readers[path.name](path)._replace(origin=path.name) for path in places)
        found = next((each for each in readings if each.names), Classes())
    if not options:
        return found
    by_id = {int(match[1]): match[2] for name in options if (match := re.fullmatch(r"(\d+)=(.+)", name))}
    if 0 < len(by_id) < len(options):
        rule = "write ID=NAME for every class, each id once, or names alone in the order of ids"
        raise DataError(f"--classes is {' '.join(options)}; {rule}")
    if not found.palette:
        return Classes(by_id or options)
    known = [*dict(found.names).values()]
    if set(options) not in (set(known), {name for name in known if name.lower() not in VOID}):
        both = f"--classes names {join_first(options)}, and {found.origin} names {join_first(known)}"
        raise DataError(f"{both}; leave out --classes, or mend the file")
    return found


def merge_known(classes: Classes, known: Classes, ids: Collection[int]) -> Classes:
    """What was given, else what is known of the data set; its ids of no label stay so, unless they are named."""
    if not classes.names:
        return known
    named = classes.names if isinstance(classes.names, dict) else ids if len(classes.names) == len(ids) else ()
    void = {index: why for index, why in (known.void | classes.void).items() if index not in named}
    return classes._replace(void=void)


def read_palette(path: Path) -> dict[str, str]:
    """ "#rrggbb" -> class name, from JSON {"name": "#rrggbb"} or a text with a name and three numbers a line.

    The second is what CamVid's label_colors.txt, CVAT's labelmap.txt and class_dict.csv are.
    """
    rule = 'write {"sky": "#8080c0", ...}, or a line for each class with its name, red, green and blue'
    if path.suffix == ".json":
        content = read_json(path, dict[str, Annotated[Colour, BeforeValidator(of_numbers)]], rule)
        named = [(name, colour.lower()) for name, colour in content.items()]
    else:
        rows = [*(csv_colours(path) if path.suffix.lower() == ".csv" else line_colours(path))]
        if strange := [join_first(numbers) for _, numbers in rows if max(numbers) > 255]:
            raise DataError(f"{path} is no palette: {strange[0]} is no colour; {rule}")
        named = [(name or join_first(numbers), "#" + bytes(numbers).hex()) for name, numbers in rows]
    if not named:
        raise DataError(f"{path} is no palette: it names no colour; {rule}")
    colours: dict[str, str] = {}
    for name, colour in named:
        if (other := colours.setdefault(colour, name)) != name:
            raise DataError(f"{path}: {other} and {name} have one colour, {colour}; give one of them another, or leave it out")
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


# ---- one function a file


def of_palette(path: Path) -> Classes:
    """Of a palette: ids in the order of the lines. Several colours may have one name."""
    colours = read_palette(path)
    names = list(dict.fromkeys(colours.values()))
    return Classes(dict(enumerate(names)), palette={colour: names.index(name) for colour, name in colours.items()})


def of_json(path: Path, *, key: str = "", field: str = "", others: Sequence[str] = (), rule: str = NAMES_RULE) -> Classes:
    """Of JSON: a list of names, {"0": name} or {name: 0}.

    key: where the names are in the file, by their ids; a file without it is that of another tool. field: of every entry of a list,
    its name. others: names before the list.
    """
    if key and f'"{key}"' not in read_text(path):
        return Classes()
    kind = list[create_model("Entry", **{field: (str, ...)})] if field else list[str] | dict[int, str] | dict[str, int]
    content = read_json(path, create_model("File", **{key: (kind, ...)}) if key else kind, rule)
    names = getattr(content, key) if key else content
    if isinstance(names, list):
        names = dict(enumerate([*others, *(getattr(entry, field) if field else entry for entry in names)]))
    elif isinstance(next(iter(names), 0), str):  # name -> id
        if len({*names.values()}) < len(names):
            raise DataError(f"{path}: two names have one id; {rule}")
        names = {index: name for name, index in names.items()}
    return Classes(names if key or {*names} != {*range(len(names))} else [names[index] for index in range(len(names))])


def of_machine_colours(path: Path) -> Classes:
    """Of Supervisely's masks_machine/: {"leaf": [1, 1, 1], ...}, greys that are the ids; 0 is where nobody drew."""
    colours = read_json(path, dict[str, tuple[int, int, int]], 'the file of Supervisely has {"leaf": [1, 1, 1], ...}')
    if any(len({*colour}) > 1 for colour in colours.values()):
        raise DataError(f"{path} has colours that are no greys; export the masks again with machine masks as greys")
    return Classes({0: "background"} | {colour[0]: name for name, colour in colours.items()})


def of_lines(path: Path) -> Classes:
    """Of a name a line; by id if every line begins with another number: "0: sky", or "0 sky" if they are counted up from 0 or 1.

    A first line __ignore__, of labelme2voc, is the id -1, which 8 bits store as 255.
    """
    lines = list_lines(path)
    if lines[:1] == ["__ignore__"]:
        return Classes(dict(enumerate(lines[1:])))
    by_id = {int(found[1]): found[3] for line in lines if (found := re.fullmatch(r"(\d+)(\s*[:=,;]\s*|\s+)(\S.*)", line))}
    counted = all(re.match(r"\d+\s*[:=,;]", line) for line in lines) or [*by_id] in ([*range(len(lines))], [*range(1, len(lines) + 1)])
    return Classes(by_id if counted and len({*by_id.values()}) == len(lines) else lines)


def of_roboflow(path: Path) -> Classes:
    """Of a CSV with a heading: Pixel Value, Class."""
    return Classes({int(row[0]): row[1] for row in read_csv(path) if len(row) > 1 and row[0].isdecimal()})


def of_ade20k(path: Path) -> Classes:
    """Of ADE20K's objectInfo150.txt: a table with an id first and synonyms last; 0 is whatever is none of them."""
    rows = (re.match(r"\s*(\d+)\s+[\d.]+\s+\d+\s+\d+\s+\d+\s+([^,;]+)", line) for line in read_text(path).splitlines())
    return Classes({int(row[1]): row[2].strip() for row in rows if row}, {0: "other, in ADE20K"})


CLASS_FILES: dict[str, Callable[[Path], Classes]] = {  # the first that is there counts
    **dict.fromkeys(("palette.json", "class_dict.csv", "labelmap.txt", "label_colors.txt"), of_palette),
    "classes.json": of_json,
    "classes.txt": of_lines,
    "codes.txt": of_lines,
    "_classes.csv": of_roboflow,
    "class_names.txt": of_lines,  # of labelme2voc, as labels.txt
    "labels.txt": of_lines,
    "obj_class_to_machine_color.json": of_machine_colours,
    "config_v2.0.json": partial(of_json, key="labels", field="readable"),  # of Mapillary Vistas
    "config_v1.2.json": partial(of_json, key="labels", field="readable"),
    "objectInfo150.txt": of_ade20k,
    "dataset.json": partial(of_json, key="labels", rule=LABELS_RULE),  # of nnU-Net
    "meta.json": partial(of_json, key="classes", field="title", others=["background"]),  # of Supervisely, of machine masks
}
