"""Draws the annotations of a labelling tool as masks, which `s4former new-config` then finds beside their images.

    s4former rasterize photos -o photos/masks
    s4former new-config photos -o mine.json

DIR holds images and what a tool exported for them: JSON of LabelMe, COCO (also of Roboflow, CVAT and Label Studio) or
Supervisely, YOLO's outlines, or CVAT's XML for images. Nothing but the masks is written.

A pixel belongs to a thing if its centre does. Things lie over each other as in the tool: those of a higher z_order, else the
later ones, on top. Holes are left open; crowd regions, and COCO's and YOLO's things of a box without an outline, are no label.
Pixels that nobody drew on are the class background.
"""

import json
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from os import cpu_count
from pathlib import Path

from ..config import IGNORE_INDEX
from ..data.class_names import VOID
from ..data.lists import find_images
from ..data.progress import progress
from ..errors import DataError, join_first, plural, reports_errors
from ..evaluation.pictures import palette_png
from ..files import write_text, writing_file
from .annotations import (
    BROKEN, FORMATS, Notes, class_names, describe, describe_broken, find_photos, mask_paths, polygon_format, read_annotations,
)  # fmt: skip
from .painting import Drawn, Photo, draw, name_rest, plain
from .readers import images_of


@reports_errors("s4former rasterize")
def main(arguments: Sequence[str] | None = None) -> None:
    parser = ArgumentParser("s4former rasterize", description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("folder", metavar="DIR")
    add("-o", "--output", default="", metavar="DIR", help="where the masks go; default: masks/ in DIR")
    add("--classes", nargs="+", default=(), metavar="NAME", help="in the order of their ids, the background too; default: those drawn")
    add("--background", default="background", metavar="NAME", help="class of pixels that nobody drew on; ignore: no label")
    add("--empty", action="store_true", help="an image on which nothing is drawn gets a mask as well, else it is left unlabelled")
    add("--crowds", action="store_true", help="crowd regions of COCO are objects")
    add("--smaller-on-top", action="store_true", help="of overlapping things the smaller lies on top")
    add("--format", choices=list(FORMATS), help="where a folder holds annotations of several tools")
    add("--overwrite", action="store_true", help="draw masks anew that are there already")
    options = parser.parse_args(arguments)
    print("\n".join(rasterize(options)))


def rasterize(options: Namespace) -> list[str]:
    """Writes a mask for every image on which something is drawn; returns lines about what was read, drawn and left out."""
    root = Path(options.folder).expanduser().absolute()
    folder = Path(options.output).expanduser().absolute() if options.output else root / "masks"
    if not root.is_dir():
        raise DataError(f"there is no folder {root}; give the one that holds the annotations and their images")
    kind = options.format or polygon_format(root)
    if kind is None:
        raise DataError(f"{root} holds no annotations that can be drawn; if they are of {join_first([*FORMATS])}, say so with --format")
    notes: Notes = defaultdict(list)
    images = images_of(root, folder)
    declared, photos = read_annotations(kind, images, folder, options.crowds, notes)
    photos = find_photos(photos, root, kind, notes)
    names = class_names(declared, photos, options, notes)
    paths = mask_paths(photos, folder)
    there = [path for path in paths.values() if path.exists()]
    if there and not options.overwrite:
        found = f"{plural(len(there), 'mask')} {'is' if len(there) == 1 else 'are'} there already, the first: {there[0]}"
        raise DataError(f"{found}; add --overwrite to draw them anew, or give another -o")
    ids = {name: index for index, name in enumerate(names)} | {"": IGNORE_INDEX}

    def write(photo: Photo) -> Drawn:
        return write_mask(photo, images.images[photo.id], paths[photo.id], ids, options)

    with ThreadPoolExecutor(cpu_count()) as threads:
        results = list(progress(threads.map(write, photos), "masks", len(photos)))
    for reason, name in (note for result in results for note in result.notes):
        notes[reason].append(name)
    written = {paths[photo.id] for photo, result in zip(photos, results) if sum(result.pixels)}
    if not written:
        raise DataError("; ".join(["no mask was written", *describe(notes)]))
    others = [path for path in find_images(folder, flat=False).values() if path not in written]
    notes["masks that lie there and were not drawn now"] += map(str, others)
    write_text(folder / "ids.json", json.dumps(ids, ensure_ascii=False) + "\n")
    things, numbered = sum(len(photo.things) for photo in photos), [f"{index} {name}" for index, name in enumerate(names)]
    return [
        f"{kind}: {plural(things, 'object')} on {plural(len(photos), 'image')}",
        f"written: {plural(len(written), 'mask')} in {folder}, their ids {join_first(numbered)}",
        *describe_pixels([result.pixels for result in results], options),
        *describe(notes),
        "",
        f"next:    s4former new-config {options.folder} -o mine.json"
        + ("" if folder.is_relative_to(root) else f" --images PATTERN --masks PATTERN (without these it looks in {root / 'masks'})"),
    ]


def write_mask(photo: Photo, image: Path, path: Path, ids: Mapping[str, int], options: Namespace) -> Drawn:
    """Draws and writes the mask of an image, under another name first; returns what was drawn, without the mask."""
    try:
        drawn = draw(photo, image, ids, options)
    except BROKEN as error:
        reason = "images with something that cannot be drawn, left without a mask"
        return Drawn(None, notes=[(reason, f"{image} ({describe_broken(error)})")])
    if drawn.mask is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with writing_file(path) as beside:
            palette_png(drawn.mask, beside, ids)
    return drawn._replace(mask=None)


def describe_pixels(pixels: Sequence[tuple[int, int, int]], options: Namespace) -> Iterator[str]:
    """How much nobody drew on, and how much lies in things of several classes."""
    undrawn, drawn, several = map(sum, zip(*pixels))
    flag = "" if plain(options.background) in VOID else "; with --background ignore as no label"
    yield f"nobody drew on {undrawn / (undrawn + drawn):.1%} of the pixels: taken as {name_rest(options.background)}{flag}"
    if several:
        top = "the smaller" if options.smaller_on_top else "the later one (--smaller-on-top: the smaller)"
        yield f"things of several classes overlap on {several / drawn:.2%} of what is drawn: {top} lies on top"
