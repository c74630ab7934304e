"""From a folder of photos to the text of a config and its lists."""

import json
import math
import os
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..config import from_dict
from ..data.images import is_deep
from ..data.masks import class_table
from ..data.sources import class_names
from ..errors import DataError
from ..files import write_text
from ..training.machine import this_machine
from .contents import levels_of, read_contents
from .numbering import count_classes, number_classes, read_classes
from .pairs import PARTS, drop_duplicates, find_photos, split_validation
from .proposal import propose
from .summary import describe_photos, describe_proposal

# share of the labelled pixels below which a class is likely to get no pseudo labels at a fixed threshold, and to be unlearned
SMALL_CLASS = 0.02


def write_config(options: Namespace) -> None:
    """Reads a folder of photos, writes the config and its lists, and prints what was found and proposed."""
    root, output = Path(options.folder).expanduser().absolute(), Path(options.output).absolute()
    lists = {part: output.with_name(f"{output.stem}.{part}.txt") for part in PARTS}
    check_output([output, *lists.values()])
    palette, names = read_classes(root, options.classes, options.palette)
    photos = find_photos(root)
    contents = read_contents(photos, {int(colour[1:], 16): index for colour, index in palette.items()})
    drop_duplicates(photos)
    contents = {row.image: contents[row.image] for rows in photos.parts.values() for row in rows}
    numbering = number_classes(contents.values(), names, options.ignore)
    if not photos.parts["validation"]:
        ids = {image: each.pixels for image, each in contents.items()}
        split_validation(photos, ids, options.validation, options.seed)

    machine, sizes = this_machine(), [each.size for each in contents.values()]
    tree = propose(machine, sizes, len(photos.parts["unlabeled"]), options.encoder)
    deep = [image for image, each in contents.items() if is_deep(each.mode)]
    tree["data"] = {
        "source": "folder", "root": str(root), **{part: str(lists[part]) for part, rows in photos.parts.items() if rows},
        **numbering.data_keys(), **({"palette": palette} if palette else {}), **({"levels": levels_of(deep)} if deep else {}),
        **tree["data"],
    }  # fmt: skip
    counts = count_classes([contents[row.image] for row in photos.parts["labeled"]], numbering)
    shares = [counts.get(index, (0.0, 0))[0] for index in range(len(numbering.classes))]
    if photos.parts["unlabeled"] and any(0 < share < SMALL_CLASS for share in shares):
        tree["method"]["thresholds"] = "per_class"
    if options.class_weights:
        tree["method"]["class_weights"] = class_weights(shares)
    data = from_dict(tree).data  # what is written can be read
    class_table(data, len(class_names(data, ())), "")

    for part, rows in photos.parts.items():
        paths = [[Path(path).relative_to(root).as_posix() for path in (row.image, row.mask) if path] for row in rows]
        if rows:
            write_text(lists[part], "".join("\t".join(pair) + "\n" for pair in paths))
    write_text(output, config_text(tree))
    print("\n".join([*describe_photos(root, photos, contents, numbering), *describe_proposal(tree, machine, sizes)]))
    print(f"\nwritten: {options.output} and its lists {output.stem}.*.txt")
    print(f"next:    python train_semi.py --config {options.output} --check")


def check_output(paths: Sequence[Path]) -> None:
    """`DataError` if one of the files exists, or their folder cannot be written into."""
    if there := [path for path in paths if path.exists()]:
        raise DataError(f"{there[0]} is there already; delete it, or give another name with -o")
    folder = paths[0].parent
    if not os.access(folder, os.W_OK):
        what = "cannot be written into; make it writable" if folder.is_dir() else "does not exist; make it"
        raise DataError(f"the folder {folder} {what}, or give another place with -o")


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
