"""The annotations of a folder: which tool's they are, by the content of its files, and what they draw on which of its images."""

import re
import unicodedata
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from os.path import getsize
from pathlib import Path

from ..config import IGNORE_INDEX
from ..data.class_names import VOID
from ..data.images import DECODE_ERRORS
from ..data.lists import walk_folders
from ..data.progress import progress
from ..errors import DataError, join_first
from .painting import CROWD, NO_LABEL, Photo, plain
from .readers import Images, read_coco, read_cvat, read_labelme, read_supervisely, read_yolo

FORMATS = {  # name -> ending of its files, what the content of one has to match, and what reads one
    "COCO": (".json", (rb'"annotations"\s*:', rb'"categories"\s*:', rb'"segmentation"\s*:'), read_coco),
    "LabelMe": (".json", (rb'"shapes"\s*:', rb'"imagePath"\s*:'), read_labelme),
    "Supervisely": (".json", (rb'"objects"\s*:', rb'"(exterior|bitmap)"\s*:'), read_supervisely),
    "CVAT": (".xml", (rb"<annotations>", rb"<image\s[^>]*\bwidth="), read_cvat),
    "YOLO": (".txt", (rb"(?m)^[ \t]*\d+(([ \t]+[\d.eE+-]+){2}){3,}[ \t]*\r?$",), read_yolo),  # a class and three corners or more
}
MOST = 20  # files of one ending, empty ones left out, that are looked at in one folder
# what content raises that is not as expected
BROKEN = (*DECODE_ERRORS, DataError, KeyError, TypeError, IndexError, AttributeError, OverflowError)
Notes = dict[str, list[str]]  # what happened -> to which files or shapes


def polygon_format(folder: Path) -> str | None:
    """The format of the annotations below a folder, a key of `FORMATS`; None if there are none that could be drawn."""
    first = (path for files in annotation_files(folder) for path in islice(filter(getsize, files), MOST))
    return next((name for path in first if (name := file_format(path))), None)


def annotation_files(folder: Path) -> Iterator[list[Path]]:
    """The files of each ending in every folder below one, but hidden ones, and texts only where they are in a folder labels/."""
    for place, names in sorted(walk_folders(folder, hidden=False)):
        for ending in dict.fromkeys(ending for ending, *_ in FORMATS.values()):
            if ending != ".txt" or "labels" in place.split("/"):
                yield [folder / place / name for name in sorted(names) if name.lower().endswith(ending)]


def file_format(path: Path) -> str | None:
    """The format of one file of annotations; None if it is none."""
    content = path.read_bytes()
    of_ending = ((name, marks) for name, (ending, marks, _) in FORMATS.items() if path.suffix.lower() == ending)
    return next((name for name, marks in of_ending if all(re.search(mark, content) for mark in marks)), None)


def read_annotations(kind: str, images: Images, folder: Path, crowds: bool, notes: Notes) -> tuple[list[str], list[Photo]]:
    """Names of classes as far as files declare them, and the photos that all files of a format name. crowds: are objects."""
    ending, _, read = FORMATS[kind]
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
            names, found = read(path, images)
        except BROKEN as error:
            notes["files that cannot be read, left out"].append(f"{path} ({describe_broken(error)})")
            continue
        declared |= dict.fromkeys(map(one_spelling, names))
        for photo in found:
            things = [each._replace(kind="outline") if crowds and each.kind == CROWD else each for each in photo.things]
            photos.append(photo._replace(things=[each._replace(label=one_spelling(each.label)) for each in things]))
    return list(declared), photos


def one_spelling(label: str) -> str:
    """A label without blanks around it, and with its accents in NFC, so that two files have one class of it."""
    return unicodedata.normalize("NFC", label.strip())


def find_photos(photos: Sequence[Photo], root: Path, kind: str, notes: Notes) -> list[Photo]:
    """The photos whose image is there; what several files draw on one image is joined."""
    found: dict[str, Photo] = {}
    placed = {photo.id for photo in photos} - {None}
    for photo in photos:
        # formats of a file for each image say where it lies: if one lies there, others that do not are gone
        if photo.id is None and photo.namesake not in {None, *placed} and (kind in ("COCO", "CVAT") or not placed):
            photo = photo._replace(id=photo.namesake)
            notes["images found by their file name alone"].append(f"{photo.id} for {photo.name}")
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
    """The classes of --classes, or those that something is drawn of, in the order that is declared, then by name; the background first."""
    used = {thing.label for photo in photos for thing in photo.things if thing.drawing and thing.kind not in NO_LABEL}
    names = [name for name in declared if name in used] + sorted(used - set(declared))
    cases = [name for name, times in Counter(map(str.casefold, used)).items() if times > 1]
    notes["classes that differ in capital letters alone, kept apart"] += [name for name in names if name.casefold() in cases]
    notes["classes that nothing is drawn of, left out"] += [name for name in declared if name not in used]
    names = [name for name in names if plain(name) not in VOID and plain(name) != plain(options.background)]
    names = ([] if plain(options.background) in VOID else [options.background]) + names
    if options.classes and (others := [name for name in names if name not in options.classes]):
        raise DataError(f"--classes lacks {join_first(others)}; the drawn things are of these as well, or nobody drew on some pixels")
    names = list(options.classes) or names
    if len(names) > IGNORE_INDEX:
        raise DataError(f"{len(names)} classes are drawn; a mask holds {IGNORE_INDEX} at most")
    return names


def mask_paths(photos: Sequence[Photo], folder: Path) -> dict[str, Path]:
    """Where the mask of each image goes: below the folder as the image below the root, the folder images/ or img/ left out."""
    shorter = {photo.id: "/".join(part for part in photo.id.split("/") if part not in ("images", "img")) for photo in photos}
    unique = len(set(shorter.values())) == len(shorter)
    return {name: folder / f"{shorter[name] if unique else name}.png" for name in shorter}


def describe_broken(error: Exception) -> str:
    """Why content could not be taken, in words."""
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)


def describe(notes: Notes) -> Iterator[str]:
    """A line for each thing that happened."""
    return (f"{reason}: {len(names)}, the first: {names[0]}" for reason, names in notes.items() if names)
