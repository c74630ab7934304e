"""From the annotations of a folder to its masks: which class each pixel gets, and what has to be said about it."""

import json
import unicodedata
from argparse import Namespace
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from os import cpu_count
from pathlib import Path

from ..config import IGNORE_INDEX
from ..data.class_names import VOID
from ..data.images import DECODE_ERRORS
from ..data.lists import list_images
from ..data.progress import progress
from ..errors import DataError, join_first, plural
from ..evaluation.pictures import palette_png
from ..files import write_text, writing
from .formats import MARKS, annotation_files, file_format, polygon_format
from .painting import Drawn, Photo, draw, name_rest, plain
from .readers import READERS, Images, images_of

# what content raises that is not as expected
BROKEN = (*DECODE_ERRORS, DataError, KeyError, TypeError, IndexError, AttributeError, OverflowError)
Notes = dict[str, list[str]]  # what happened -> to which files or shapes


def rasterize(options: Namespace) -> list[str]:
    """Writes a mask for every image on which something is drawn; returns lines about what was read, drawn and left out."""
    root = Path(options.folder).expanduser().absolute()
    folder = Path(options.output).expanduser().absolute() if options.output else root / "masks"
    if not root.is_dir():
        raise DataError(f"there is no folder {root}; give the one that holds the annotations and their images")
    kind = options.format or polygon_format(root)
    if kind is None:
        raise DataError(f"{root} holds no annotations that can be drawn; known are those of {join_first([*MARKS])}")
    notes: Notes = defaultdict(list)
    images = images_of(root, folder)
    declared, photos = read_annotations(kind, images, folder, notes)
    photos = find_photos(photos, root, notes)
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
    notes["masks that lie there and were not drawn now"] += [str(path) for path in list_images(folder) if path not in written]
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
        beside = path.with_name(f".writing-{path.name}")
        with writing(path, beside):
            palette_png(drawn.mask, beside, ids)
            beside.replace(path)
    return drawn._replace(mask=None)


def describe_pixels(pixels: Sequence[tuple[int, int, int]], options: Namespace) -> Iterator[str]:
    """How much nobody drew on, and how much lies in things of several classes."""
    undrawn, drawn, several = map(sum, zip(*pixels))
    flag = "" if plain(options.background) in VOID else "; with --background ignore as no label"
    yield f"nobody drew on {undrawn / (undrawn + drawn):.1%} of the pixels: taken as {name_rest(options.background)}{flag}"
    if several:
        top = "the smaller" if options.smaller_on_top else "the later one (--smaller-on-top: the smaller)"
        yield f"things of several classes overlap on {several / drawn:.2%} of what is drawn: {top} lies on top"


def describe_broken(error: Exception) -> str:
    """Why content could not be taken, in words."""
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)


def describe(notes: Notes) -> Iterator[str]:
    """A line for each thing that happened."""
    return (f"{reason}: {len(names)}, the first: {names[0]}" for reason, names in notes.items() if names)


# ---- what to draw


def read_annotations(kind: str, images: Images, folder: Path, notes: Notes) -> tuple[list[str], list[Photo]]:
    """Names of classes as far as files declare them, and the photos that all files of a format name."""
    ending = MARKS[kind][0]
    paths = [path for files in annotation_files(images.root) for path in files if path.suffix.lower() == ending]
    paths = [path for path in paths if not path.is_relative_to(folder)]
    declared: dict[str, None] = {}
    photos: list[Photo] = []
    for path in progress(paths, "annotations"):
        if kind != "YOLO" and file_format(path) != kind:
            if path.name != "meta.json":  # of Supervisely
                notes[f"{ending} files that are no annotations of {kind}, not read"].append(str(path))
            continue
        try:
            names, found = READERS[kind](path, images)
        except BROKEN as error:
            notes["files that cannot be read, left out"].append(f"{path} ({describe_broken(error)})")
            continue
        declared |= dict.fromkeys(map(one_spelling, names))
        photos += [
            photo._replace(things=[thing._replace(label=one_spelling(thing.label)) for thing in photo.things]) for photo in found
        ]
    return list(declared), photos


def one_spelling(label: str) -> str:
    """A label without blanks around it, and with its accents in NFC, so that two files have one class of it."""
    return unicodedata.normalize("NFC", label.strip())


def find_photos(photos: Sequence[Photo], root: Path, notes: Notes) -> list[Photo]:
    """The photos whose image is there; what several files draw on one image is joined."""
    found: dict[str, Photo] = {}
    for photo in photos:
        if photo.id is None:
            notes["images that the annotations name and that are not there"].append(photo.name)
        elif (other := found.get(photo.id)) is None:
            found[photo.id] = photo
        elif other.size != photo.size:
            raise DataError(f"two files of annotations draw on {photo.name}, and say that it has two sizes; leave one of them out")
        else:
            notes["images that two files draw on, joined"].append(photo.name)
            found[photo.id] = other._replace(things=[*other.things, *photo.things])
    if not found:
        what = f"none of the images that were annotated is in {root}; put them there" if photos else f"no annotation of {root} can be read"
        raise DataError("; ".join([what, *describe(notes)]))
    return list(found.values())


def class_names(declared: Sequence[str], photos: Sequence[Photo], options: Namespace, notes: Notes) -> list[str]:
    """The classes that something is drawn of, in the order that is declared, then by name; the background first."""
    used = {thing.label for photo in photos for thing in photo.things if thing.drawing and (options.crowds or not thing.crowd)}
    names = [name for name in declared if name in used] + sorted(used - set(declared))
    cases = [name for name, times in Counter(map(str.casefold, used)).items() if times > 1]
    notes["classes that differ in capital letters alone, kept apart"] += [name for name in names if name.casefold() in cases]
    notes["classes that nothing is drawn of, left out"] += [name for name in declared if name not in used]
    names = [name for name in names if plain(name) not in VOID and plain(name) != plain(options.background)]
    names = ([] if plain(options.background) in VOID else [options.background]) + names
    if len(names) > IGNORE_INDEX:
        raise DataError(f"{len(names)} classes are drawn; a mask holds {IGNORE_INDEX} at most")
    return names


def mask_paths(photos: Sequence[Photo], folder: Path) -> dict[str, Path]:
    """Where the mask of each image goes: below the folder as the image below the root, the folder images/ or img/ left out."""
    shorter = {photo.id: "/".join(part for part in photo.id.split("/") if part not in ("images", "img")) for photo in photos}
    unique = len(set(shorter.values())) == len(shorter)
    return {name: folder / f"{shorter[name] if unique else name}.png" for name in shorter}
