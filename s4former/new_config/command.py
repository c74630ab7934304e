"""Looks at a folder of your own photos and writes a config that trains on them.

    s4former new-config PHOTOS -o mine.json
    s4former new-config --images 'photos/*.jpg' --masks 'drawn/*_seg.png' -o mine.json

PHOTOS holds labeled/, unlabeled/ and val/, or images/ and masks/ where some images have no mask, or is as an annotation tool
or a data set leaves it (docs/own_images.md has a table), or is a list of lines image<TAB>mask. Beside mine.json come its three
lists, mine.labeled.txt and so on; nothing is written into PHOTOS.
"""

import json
import math
import os
import re
import shutil
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from ..config import IGNORE_INDEX, from_dict, without_notes
from ..data.images import is_deep
from ..data.lists import Sample
from ..data.masks import class_table, hex_colour
from ..data.sources import class_names
from ..errors import DataError, reports_errors
from ..files import write_text
from ..training.machine import this_machine
from .class_files import merge_known, read_classes
from .contents import Contents, levels_of, orientation, read_contents
from .layouts import known_classes
from .numbering import Numbering, count_classes, number_classes
from .pairs import PARTS, drop_duplicates, find_photos, split_validation
from .proposal import propose, with_notes
from .summary import describe_photos, describe_proposal

DISTINCT = 32  # of 255, in the channel in which two colours differ most
FOUND = {  # keys of `data` that what was found decides, and why
    "id_map": "ids in the masks that stand for another class, or for none",
    "ignore_index": "the id in the masks that means no label",
    "exif": "by their sizes, masks were drawn on the pixels as they are stored",
    "palette": "the colours of the masks, and of the classes in all pictures",
    "colours": "those that the masks are shown in, by the palette in their files, for all pictures",
    "levels": "one in a thousand pixels of the images of more than 8 bits is below, and above",
}


@reports_errors("s4former new-config")
def main(arguments: Sequence[str] | None = None) -> None:
    write_config(parse(arguments))


def parse(arguments: Sequence[str] | None) -> Namespace:
    parser = ArgumentParser(prog="s4former new-config", description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("folder", metavar="PHOTOS", nargs="?", help="a folder, or a list of images and masks")
    add("--images", default="", metavar="PATTERN", help="of images, in quotes; * is the same text as in --masks")
    add("--masks", default="", metavar="PATTERN", help="of their masks")
    add("-o", "--output", default="mine.json", metavar="FILE", help="default: mine.json")
    add("--classes", nargs="+", default=[], metavar="NAME", help="names in the order of the ids, or ID=NAME; else classes.txt")
    add("--ignore", nargs="+", type=int, default=[], metavar="ID", help="ids in the masks that mean no label")
    add("--palette", default="", metavar="FILE", help="names and colours of masks of colours; else palette.json")
    add("--encoder", default="", metavar="NAME", help="model.encoder; default: a DeiT for this machine")
    add("--class-weights", action="store_true", help="weigh classes by how rare they are (method.class_weights)")
    add("--validation", type=float, default=0.2, metavar="SHARE", help="of the labels, if there is no val/ (0.2)")
    add("--seed", type=int, default=0, help="of that choice")
    options = parser.parse_args(arguments)
    if bool(options.images) != bool(options.masks) or not (options.folder or options.images):
        parser.error("give the folder PHOTOS, or both --images and --masks")
    if not 0 < options.validation < 1:
        parser.error(f"--validation is {options.validation}; write a share between 0 and 1")
    return options


def write_config(options: Namespace) -> None:
    """Reads a folder of photos, writes the config and its lists, and prints what was found and proposed."""
    output = Path(options.output).absolute()
    lists = {part: output.with_name(f"{output.stem}.{part}.txt") for part in PARTS}
    drawn = output.with_name(f"{output.stem}.masks")
    check_output([output, *lists.values(), drawn])
    kind = ("vit", 16)  # a DeiT
    if options.encoder:
        from ..networks.known_encoders import check_encoder_name

        check_encoder_name(options.encoder)
        from ..networks.encoder_weights import encoder_kind  # not before: it loads torch and transformers

        kind = encoder_kind(options.encoder)
        if Path(options.encoder).exists():  # as data.root: the config may be used from another folder
            options.encoder = str(Path(options.encoder).absolute())
    try:
        write_found(options, kind, output, lists, drawn)
    except BaseException:
        shutil.rmtree(drawn, ignore_errors=True)
        raise


def write_found(options: Namespace, kind: tuple[str, int], output: Path, lists: dict[str, Path], drawn: Path) -> None:
    """Writes the config and its lists. kind: of the encoder. drawn: where masks go that have to be drawn first."""
    root = Path(options.folder or ".").expanduser().absolute()
    photos = find_photos(root, drawn, options.images, options.masks)
    classes = read_classes(root if options.folder and root.is_dir() else photos.root, options.classes, options.palette)
    contents = read_contents(photos, {int(colour[1:], 16): index for colour, index in classes.palette.items()})
    drop_duplicates(photos)
    contents = {row.image: contents[row.image] for rows in photos.parts.values() for row in rows}
    ids = {index for each in contents.values() for index in each.pixels}
    classes = merge_known(classes, known_classes(photos.pairs, ids), ids)
    numbering = number_classes(contents.values(), classes.names, classes.void | dict.fromkeys(options.ignore, "--ignore"))
    origin = f"the names are those of {classes.origin}" if classes.origin else ""
    photos.remarks += [origin] if origin else []
    if not photos.parts["validation"]:
        split_validation(photos, {image: each.pixels for image, each in contents.items()}, options.validation, options.seed)
    elif (options.validation, options.seed) != (0.2, 0):
        photos.remarks.append("--validation and --seed are not used: images for evaluation are there")

    counts = count_classes([contents[row.image] for row in photos.parts["labeled"]], numbering)
    showing = [images for index, (_, images) in counts.items() if index != IGNORE_INDEX]
    shown = sum(showing) / len(showing) / len(photos.parts["labeled"])
    machine, sizes = this_machine(), [each.size for each in contents.values()]
    tree = propose(machine, sizes, len(photos.parts["unlabeled"]), options.encoder, kind, min(showing), shown)
    deep = [image for image, each in contents.items() if is_deep(each.mode)]
    data = {
        "source": "folder", "root": str(photos.root), **{part: str(lists[part]) for part, rows in photos.parts.items() if rows},
        **numbering.data_keys(), "exif": orientation(photos, contents, output.with_name(f"{output.stem}.exif.png")),
        "palette": classes.palette, "colours": [] if classes.palette else own_colours(contents.values(), numbering),
        "levels": deep and levels_of(deep),
    }  # fmt: skip
    reasons = {"classes": "; ".join(filter(None, (origin, numbering.reason))), **photos.reasons, **FOUND}
    noted = {key: (value, reasons.get(key, "")) for key, value in data.items() if value or key == "ignore_index"}
    tree["data"] = with_notes(noted) | tree["data"]
    if options.class_weights:
        shares = [counts.get(index, (0.0, 0))[0] for index in range(len(numbering.classes))]
        why = "1 / ln(1.02 + share of the pixels), the mean pixel weighs 1 (ENet)"
        tree["method"] |= with_notes({"class_weights": (class_weights(shares), why)})
    read = from_dict(without_notes(tree)).data  # what is written can be read
    class_table(read, len(class_names(read)), "")

    texts = {part: "".join(list_line(photos.root, row) for row in rows) for part, rows in photos.parts.items() if rows}
    for part, text in texts.items():
        write_text(lists[part], text)
    write_text(output, config_text(tree))
    print("\n".join([*describe_photos(photos, contents, numbering), *describe_proposal(tree, machine)]))
    if not options.encoder:
        print(f"\n{tree['model']['encoder']} is downloaded at the first run; without network take --encoder shapes")
    print(f"\nwritten: {options.output} and its lists {output.stem}.*.txt")
    print(f"next:    s4former check --config {options.output}")


def list_line(root: Path, row: Sample) -> str:
    """The line of a list: the image, and its mask if it has one, as `read_list` takes them; `DataError` for a name that it cannot."""
    paths = [Path(path).relative_to(root).as_posix() for path in (row.image, row.mask) if path]
    if odd := [path for path in paths if re.search(r"[\t\n\r]", path)]:
        raise DataError(f"the name {odd[0]!r} has a tab or a line break, which no list can hold; rename the file")
    line = "\t".join(paths)
    return ("./" if line[0] == "#" or line[0].isspace() else "") + line + "\n"


def check_output(paths: Sequence[Path]) -> None:
    """`DataError` if one of the files exists, or their folder cannot be written into."""
    if there := [path for path in paths if path.exists()]:
        raise DataError(f"{there[0]} is there already; delete it, or give another name with -o")
    folder = paths[0].parent
    if not os.access(folder, os.W_OK):
        what = "cannot be written into; make it writable" if folder.is_dir() else "does not exist; make it"
        raise DataError(f"the folder {folder} {what}, or give another place with -o")


def own_colours(masks: Iterable[Contents], numbering: Numbering) -> list[str]:
    """The colours of the classes in the palettes of indexed masks; none if two of them could not be told apart in a picture."""
    shown = {numbering.class_of[raw]: colour for mask in masks for raw, colour in mask.shown.items()}
    colours = [shown.get(index) for index in range(len(numbering.classes))]
    for one, other in combinations((colour.to_bytes(3) for colour in colours if colour is not None), 2):
        if max(abs(x - y) for x, y in zip(one, other)) < DISTINCT:
            return []
    names = ["" if colour is None else hex_colour(colour) for colour in colours]
    return names if any(names) else []


def class_weights(shares: Sequence[float]) -> list[float]:
    """1 / ln(1.02 + share of the pixels), as in ENet (Paszke et al. 2016), scaled so that the mean pixel weighs 1."""
    weights = [1 / math.log(1.02 + share) for share in shares]
    mean = sum(weight * share for weight, share in zip(weights, shares)) / sum(shares)
    return [round(weight / mean, 3) for weight in weights]


def config_text(tree: dict[str, dict[str, Any]]) -> str:
    """JSON that a person edits: a line for each key, lists and small mappings in one."""
    sections = []
    for name, section in tree.items():
        keys = [f"    {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in section.items()]
        sections.append(f'  "{name}": {{\n' + ",\n".join(keys) + "\n  }")
    return "{\n" + ",\n".join(sections) + "\n}\n"
