"""Looks at a folder of your own photos and writes a config that trains on them.

    python -m s4former.new_config PHOTOS -o mine.json

PHOTOS holds labeled/, unlabeled/ and val/, or images/ and masks/ where some images have no mask. Beside mine.json come its
three lists, mine.labeled.txt and so on; nothing is written into PHOTOS.
"""

import argparse
import json
import math
import sys
import textwrap
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, Iterable, Sequence

from .checkpoint import write_text
from .config import ConfigError, from_dict
from .finding import DEEP, WORDS, Found, Look, find, hold_out, keep, levels_of, look_at, without_twins
from .numbering import MANY, PALETTE_FILES, Numbering, numbering, read_names, read_palette
from .proposal import Machine, propose, this_machine
from .pseudo import IGNORE_INDEX
from .randomness import Stream, numpy_generator
from .lists import Row
from .reading import DataError, hexadecimal, plural, some

FEW_IMAGES, FEW_PIXELS = 3, 0.002  # a class in fewer labelled images, or on a smaller share of them, is pointed at
MOST = 3  # files named one by one


def main(arguments: Sequence[str] | None = None) -> int:
    options = read_options(arguments)
    try:
        write_config(options)
    except (ConfigError, DataError) as error:
        print(f"new_config: {error}", file=sys.stderr)
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
    if options.class_weights:
        labeled = tally([looks[row.image] for row in found.labeled], numbers)
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
            remarks.append(f"left out as well, for such reasons: {more} more of the {len(rows)} {WORDS[part]} images")
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
    lines = [f'  "name me {place}": "{hexadecimal(colour)}"' for place, (colour, _) in enumerate(colours.most_common())]
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


# ---- what is said


def describe(root: Path, found: Found, looks: dict[str, Look], numbers: Numbering) -> list[str]:
    """The short table: sets, classes, remarks."""
    lines = [str(root), "", f"{'':14}{'images':>7}  width x height"]
    for part, rows in found.parts.items():
        lines.append(f"  {WORDS[part]:12}{len(rows):7d}  {sizes_in_words([looks[row.image].size for row in rows])}")
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
        if key != IGNORE_INDEX and (images < min(FEW_IMAGES, len(found.labeled)) or share < FEW_PIXELS):
            rare.append(name)
    remarks = [*numbers.remarks, *found.remarks]
    if rare:
        remarks.append(
            f"rare among the labels: {some(rare)}; more labels of them help most. Otherwise: --class-weights here,"
            " data.repeat_rare=0.5, method.thresholds=per_class"
        )
    if len(numbers.classes) == 2:
        remarks.append("two classes: NCR would always be 0 and is left out")
    if not found.unlabeled:
        remarks.append("there are no unlabelled images: the config trains on labels alone (method.teacher=none)")
    modes = {look.mode for look in looks.values()}
    if modes & DEEP:
        remarks.append("images of more than 8 bits are read between two grey values (data.levels)")
    elif modes & {"L", "1", "LA"}:
        remarks.append("grey images are read as RGB with three equal channels")
    told = [textwrap.fill(remark, 110, break_long_words=False, initial_indent="  - ", subsequent_indent="    ") for remark in remarks]
    return [*lines, "", *told, *([""] if remarks else [])]


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
    lines.append(f"  steps       {steps}, evaluated every {tree['evaluation']['every']}")
    if largest > 3 * short:
        lines.append(f"  small things: 30 px of the largest photo become {30 * short / largest:.0f} px; data.resize changes that")
    return [f"Proposed for {machine.words}:", "", *lines]


# ---- what is written


def line_of(row: Row, root: Path) -> str:
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
