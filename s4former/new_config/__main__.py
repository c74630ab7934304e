"""Looks at a folder of your own photos and writes a config that trains on them.

    python -m s4former.new_config PHOTOS -o mine.json

PHOTOS holds labeled/, unlabeled/ and val/, or images/ and masks/ where some images have no mask. Beside mine.json come its
three lists, mine.labeled.txt and so on; nothing is written into PHOTOS.
"""

import argparse
import json
import math
import os
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, Iterable, Sequence

from ..config import from_dict
from ..data.lists import Sample
from ..data.masks import hex_colour
from ..data.sources import PART_NAMES
from ..errors import ConfigError, DataError, describe_error, plural
from ..files import write_text
from ..randomness import Stream, numpy_generator
from ..training.machine import this_machine
from .finding import DEEP, Found, Look, find, hold_out, keep, levels_of, look_at, without_twins
from .numbering import MANY, PALETTE_FILES, numbering, read_names, read_palette
from .proposal import propose
from .survey import describe, describe_proposal, tally

MOST = 3  # files named one by one
# share of the labelled pixels below which a class is likely to get no pseudo labels at a fixed threshold, and to be unlearned
SMALL = 0.02


def main(arguments: Sequence[str] | None = None) -> int:
    options = read_options(arguments)
    try:
        write_config(options)
    except (ConfigError, DataError, OSError) as error:
        print(f"new_config: {describe_error(error)}", file=sys.stderr)
        return 1
    return 0


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m s4former.new_config", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", metavar="PHOTOS")
    parser.add_argument("-o", "--output", default="mine.json", metavar="FILE", help="default: mine.json")
    parser.add_argument("--classes", nargs="+", default=[], metavar="NAME", help="names of the ids 0, 1, ...; else classes.txt")
    parser.add_argument("--ignore", nargs="+", type=int, default=[], metavar="ID", help="ids in the masks that mean no label")
    parser.add_argument("--palette", metavar="FILE", help="names and colours of masks of colours; else palette.json")
    parser.add_argument("--encoder", default="", metavar="NAME", help="model.encoder; default: a DeiT for this machine")
    parser.add_argument("--class-weights", action="store_true", help="weigh classes by how rare they are (method.class_weights)")
    parser.add_argument("--validation", type=float, default=0.2, metavar="SHARE", help="of the labels, if there is no val/ (0.2)")
    parser.add_argument("--seed", type=int, default=0, help="of that choice")
    options = parser.parse_args(arguments)
    if not 0 < options.validation < 1:
        parser.error(f"--validation is {options.validation}; write a share between 0 and 1")
    return options


def write_config(options: argparse.Namespace) -> None:
    """Looks, says what it sees, and writes the config and its lists."""
    root, output = Path(options.folder).expanduser().absolute(), Path(options.output).absolute()
    files = {part: output.with_name(f"{output.stem}.{part}.txt") for part in ("labeled", "unlabeled", "validation")}
    there = [path for path in (output, *files.values()) if path.exists()]
    if there:
        raise DataError(f"{there[0]} is there already; delete it, or give another name with -o")
    if not os.access(output.parent, os.W_OK):
        what = "cannot be written into; make it writable" if output.parent.is_dir() else "does not exist; make it"
        raise DataError(f"the folder {output.parent} {what}, or give another place with -o")
    palette, names = classes_in(root, options)
    found, looks = usable(find(root), {int(colour[1:], 16): index for colour, index in palette.items()})
    found = without_twins(found)
    looks = {row.image: looks[row.image] for rows in found.parts.values() for row in rows}
    refuse_colours(look.colours for look in looks.values() if look.colours)
    numbers = numbering(total(looks.values()), names, options.ignore)
    if not found.validation:
        found = with_validation(found, looks, options)
    machine = this_machine()
    sizes = [look.size for look in looks.values()]
    tree = propose(machine, sizes, len(found.unlabeled), options.encoder)
    tree["data"] = {
        "source": "folder", "root": str(root), **{part: str(path) for part, path in files.items() if found.parts[part]},
        **numbers.keys(), **({"palette": palette} if palette else {}), **levels_keys(looks), **tree["data"],
    }  # fmt: skip
    labeled = tally([looks[row.image] for row in found.labeled], numbers)
    if found.unlabeled and any(share < SMALL for index, (share, _) in labeled.items() if index < len(numbers.classes)):
        tree["method"]["thresholds"] = "per_class"
    if options.class_weights:
        tree["method"]["class_weights"] = class_weights([labeled.get(i, (0.0, 0))[0] for i in range(len(numbers.classes))])
    from_dict(tree)  # what is written can be read
    for part, rows in found.parts.items():
        if rows:
            write_text(files[part], "".join(line_of(row, root) for row in rows))
    write_text(output, dumped(tree))
    print("\n".join([*describe(root, found, looks, numbers), *describe_proposal(tree, machine, sizes)]))
    shown = options.output
    print(f"\nwritten: {shown} and its lists {output.stem}.*.txt\nnext:    python train_semi.py --config {shown} --check")


def classes_in(root: Path, options: argparse.Namespace) -> tuple[dict[str, int], list[str]]:
    """The palette, "#rrggbb" -> id, and the class names, as far as the command or files in the folder give them."""
    named = [root / name for name in PALETTE_FILES if (root / name).is_file()]
    path = Path(options.palette) if options.palette else next(iter(named), None)
    if path is None:
        return {}, options.classes or read_names(root)
    if not path.is_file():
        raise DataError(f"there is no palette file {path}")
    colours = read_palette(path)
    names = list(dict.fromkeys(colours.values()))  # several colours may have one name
    return {colour: names.index(name) for colour, name in colours.items()}, names


def usable(found: Found, palette: dict[int, int]) -> tuple[Found, dict[str, Look]]:
    """The rows that can be read, what they hold by image path, and remarks that name the others."""
    looks: dict[str, Look] = {}
    remarks = []
    for part, rows in found.parts.items():
        seen, complaints = look_at(rows, palette)
        if rows and not seen:
            raise DataError(f"none of {plural(len(rows), 'image')} can be used: {complaints[0]}")
        looks |= seen
        remarks += [f"left out: {complaint}" for complaint in complaints[:MOST]]
        if len(complaints) > MOST:
            more = len(complaints) - MOST
            remarks.append(f"left out as well, for such reasons: {more} more of the {len(rows)} {PART_NAMES[part]} images")
    return keep(replace(found, remarks=[*found.remarks, *remarks]), lambda row: row.image in looks), looks


def refuse_colours(masks: Iterable[dict[int, int]]) -> None:
    """Masks of colours without a palette: says which colours there are, as a palette that only wants names."""
    colours: Counter = Counter()
    for counts in masks:
        colours.update(counts)
    if not colours:
        return
    if len(colours) > MANY:
        raise DataError(
            f"the masks hold {len(colours)} colours; so many come from a JPEG or from smoothed edges. Save them as PNGs"
            " without smoothing, of ids or of one colour for each class"
        )
    lines = [f'  "name me {place}": "{hex_colour(colour)}"' for place, (colour, _) in enumerate(colours.most_common())]
    raise DataError(
        "the masks hold colours. Name them, commonest first here, in a JSON file, and give it with --palette FILE; call what"
        " is no class void:\n{\n" + ",\n".join(lines) + "\n}"
    )


def total(looks: Iterable[Look]) -> Counter:
    """How often each id comes up."""
    pixels: Counter = Counter()
    for look in looks:
        pixels.update(look.pixels)
    return pixels


def with_validation(found: Found, looks: dict[str, Look], options: argparse.Namespace) -> Found:
    """The folder with a part of its labels held out for evaluation."""
    if len(found.labeled) < 2:
        raise DataError("there is one labelled image, which cannot be trained and evaluated on at once; label another")
    rng = numpy_generator(options.seed, Stream.HELD_OUT)
    labeled, held = hold_out(found.labeled, {path: look.pixels for path, look in looks.items()}, options.validation, rng)
    if not held:
        raise DataError(
            "there is no val/, and no labelled image can be held out without leaving a class without any; put labelled"
            " images to evaluate on into val/"
        )
    remark = f"there is no val/: {len(held)} of the {len(held) + len(labeled)} labelled images held out (seed {options.seed})"
    return replace(found, labeled=labeled, validation=held, remarks=[*found.remarks, remark])


def levels_keys(looks: dict[str, Look]) -> dict[str, Any]:
    """data.levels, where images have more than 8 bits."""
    deep = [path for path, look in looks.items() if look.mode in DEEP]
    return {"levels": levels_of(deep)} if deep else {}


def class_weights(shares: Sequence[float]) -> list[float]:
    """1 / ln(1.02 + share of the pixels), as ENet has it (Paszke et al. 2016), scaled so that the mean pixel weighs 1."""
    weights = [1 / math.log(1.02 + share) for share in shares]
    mean = sum(weight * share for weight, share in zip(weights, shares)) / sum(shares)
    return [round(weight / mean, 3) for weight in weights]


# ---- what is written


def line_of(row: Sample, root: Path) -> str:
    """A line of a list: the image and, behind a tab, its mask, as paths below the folder."""
    return "\t".join(Path(path).relative_to(root).as_posix() for path in (row.image, row.mask) if path) + "\n"


def dumped(tree: dict[str, dict[str, Any]]) -> str:
    """JSON that a person edits: a line for each key, lists and small mappings in one."""
    sections = []
    for name, section in tree.items():
        keys = [f"    {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in section.items()]
        sections.append(f'  "{name}": {{\n' + ",\n".join(keys) + "\n  }")
    return "{\n" + ",\n".join(sections) + "\n}\n"


if __name__ == "__main__":
    sys.exit(main())
