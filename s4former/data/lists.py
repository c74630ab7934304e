"""From names to samples: what a list file or a folder names, which files are meant, and whether all of them exist.

No name leads out of the data folder, since lists come from anywhere; links in the folder are followed, since its owner made them.
"""

import csv
import difflib
import hashlib
import heapq
import os
import re
import unicodedata
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Callable, Collection, Iterable, Iterator, Sequence

from ..config import Data
from ..errors import DataError, plural
from ..files import read_text, sha256, similar_path
from ..randomness import Stream, numpy_generator
from .images import IMAGE_ENDINGS
from .masks import MASK_ENDINGS
from .progress import progress


@dataclass(frozen=True)
class Sample:
    """One image: absolute paths (or "shapes:SEED:INDEX:HEIGHTxWIDTH"), mask `None` where there is none."""

    image: str
    mask: str | None
    id: str


@dataclass(frozen=True)
class Layout:
    """Which files belong to an id."""

    root: Path
    images: dict[str, str]
    masks: dict[str, str]
    flat: bool  # ids are file names; otherwise they are paths below the image folder
    masks_in: str  # for messages
    tags: tuple[str, ...] = ()  # endings of file names that are not part of the id

    def sample(self, name: str, masks: bool) -> Sample:
        """The sample of an id, with its mask if it has one and `masks` are wanted."""
        return Sample(self.images[name], self.masks.get(name) if masks else None, name)

    def below(self, folder: Path) -> "Layout":
        """The same of the images below a folder."""
        return replace(self, images={name: file for name, file in self.images.items() if file.startswith(f"{folder}/")})

    def find_id(self, name: str) -> str | None:
        """The id that a list means by `name`, with or without suffix, folder and tag; None if there is no image."""
        whole = unicodedata.normalize("NFC", name.removeprefix("./").lstrip("/"))
        name = strip_endings(whole, self.tags)
        shorter = PurePosixPath(name).name if self.flat else name.removeprefix("images/")
        # of two files of one stem, the second is called by its whole name
        found = next((each for each in (whole, whole.removeprefix("images/"), name, shorter) if each in self.images), None)
        return found if found or self.flat else self.unique_file_names.get(name)

    @cached_property
    def unique_file_names(self) -> dict[str, str]:
        """File name -> id of the images in subfolders, as far as a file name stands for one image only."""
        names = {each: PurePosixPath(each).name for each in self.images}
        count = Counter(names.values())
        return {name: each for each, name in names.items() if count[name] == 1}


# ---- list files


def read_list(key: str, path: Path, layout: Layout, *, masks: bool) -> list[Sample]:
    """The samples of a list file: an id a line, or an image and its mask as paths below the data folder; or a CSV of them."""
    roots = "|".join(re.escape(str(root)) for root in {layout.root, layout.root.resolve()})
    lines = [re.sub(rf"(^|\s)({roots})/", r"\1", line) for line in list_lines(path)]
    lines = [with_slashes(line, lambda name: layout.find_id(name) or (layout.root / name).is_file()) for line in lines]
    if not lines:
        raise DataError(f"{key}: the list {path} is empty")
    if outside := [line for line in lines if ".." in re.split(r"[/\s]", line)]:
        raise DataError(
            f"{key}: {path} has the line {outside[0]!r}, which leaves the data folder {layout.root}; use ids below it"
        )
    samples = [parse_line(line, layout, masks) for line in lines]
    if lost := [line for line, sample in zip(lines, samples) if sample is None]:
        name = strip_endings(lost[0], layout.tags)  # looked for among those that begin alike: of a million, it takes a minute
        alike = heapq.nlargest(2000, layout.images, key=lambda each: len(os.path.commonprefix([name, each])))
        near = difflib.get_close_matches(name, alike, n=1)
        raise DataError(
            f"{key}: {path} names {plural(len(lost), 'id')} without an image in {layout.root}, the first: {lost[0]}"
            + (f" (the nearest name is {near[0]})" if near else "")
            + (f"; a leading / means {layout.root}, since a list may not lead out of it" if lost[0].startswith("/") else "")
        )
    count = Counter(name for name, _ in {(each.id, each.image) for each in samples})
    for place, sample in enumerate(samples):
        if count[sample.id] > 1:  # files of one stem are called by their whole names
            samples[place] = replace(sample, id=Path(sample.image).relative_to(layout.root).as_posix())
    return check_samples(key, path, samples, layout.masks_in if masks else "")


def parse_line(line: str, layout: Layout, masks: bool) -> Sample | None:
    """The sample of one line; None if there is no such image.

    File names may hold spaces, so one name is tried first, and a tab separates two names where there is one. Where the
    layout is known (`flat`), the image alone determines the mask: lists of other projects name masks that were never made
    here. In a user's folder, the second column counts.
    """
    columns = line.split("\t") if "\t" in line else line.split()
    for image, *given in [[line], columns] if len(columns) == 2 else [[line]]:
        name = layout.find_id(image)
        path = layout.images[name] if name else find_file(layout.root, image.lstrip("/"))
        if name is None and (layout.flat or not path.is_file()):
            continue
        name = name or unicodedata.normalize("NFC", strip_endings(path.relative_to(layout.root).as_posix()))
        mask = find_file(layout.root, given[0].lstrip("/")) if given and not layout.flat else layout.masks.get(name)
        return Sample(str(path), str(mask) if masks and mask and os.path.isfile(mask) else None, name)
    return None


def find_file(folder: Path, name: str) -> Path:
    """A file by its path below a folder; where there is none, the one whose name is in another form of Unicode, as from a Mac."""
    forms = (name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD")))
    return next((path for form in forms if (path := folder / form).is_file()), folder / name)


def with_slashes(line: str, there: Callable[[str], Any]) -> str:
    """A line with paths as Windows writes them, with slashes; as it is if there is a file whose name has the backslashes."""
    return line.replace("\\", "/") if "\\" in line and not there(line.split("\t")[0]) else line


def check_samples(key: str, origin: Path, samples: list[Sample], masks_in: str) -> list[Sample]:
    """The samples, after making sure that none is there twice and, if `masks_in` names their place, that all have a mask."""
    if twice := [name for name, count in Counter(sample.id for sample in samples).items() if count > 1]:
        raise DataError(f"{key}: {origin} names {plural(len(twice), 'id')} more than once, the first: {twice[0]}")
    if masks_in and (lost := [sample.id for sample in samples if sample.mask is None]):
        raise DataError(
            f"{key}: {plural(len(lost), 'image')} of {origin} without a mask in {masks_in}, the first: {lost[0]};"
            f" a mask has the name of its image and one of the endings {', '.join(MASK_ENDINGS)}"
        )
    return samples


CSV_COLUMNS = (("image", "img", "filename", "file_name", "file", "path"), ("mask", "label", "annotation", "segmentation"))


def list_lines(path: Path) -> list[str]:
    """The lines of a list without blank ones and comments; of a CSV, images and masks with a tab between them.

    The columns of a CSV go by its heading, or they are its first two.
    """
    if path.suffix.lower() != ".csv":
        lines = re.split("[\r\n]", read_text(path))  # and nowhere else, unlike splitlines
    else:
        rows = read_csv(path)
        header = [cell.lower() for cell in rows[0]] if rows else []
        images, masks = ([header.index(word) for word in words if word in header][:1] for words in CSV_COLUMNS)
        rows, places = (rows[1:], images + masks) if images else (rows, [0, 1])
        lines = ["\t".join(row[place] for place in places if place < len(row)) for row in rows]
    return [line for line in map(str.strip, lines) if line and not line.startswith("#")]


def read_csv(path: Path) -> list[list[str]]:
    """The rows of a CSV, parted by commas or semicolons, their cells stripped; blank ones are left out."""
    text = read_text(path)
    first = text.partition("\n")[0]
    rows = csv.reader(re.split("[\r\n]", text), delimiter=";" if first.count(";") > first.count(",") else ",", skipinitialspace=True)
    return [[cell.strip() for cell in row] for row in rows if any(cell.strip() for cell in row)]


def list_fingerprint(ids: Iterable[str]) -> dict[str, Any]:
    """How many ids, and the SHA-256 of them sorted, one a line: what `LC_ALL=C sort LIST | sha256sum` prints."""
    names = sorted(ids)
    return {"images": len(names), "sha256": hashlib.sha256("".join([f"{name}\n" for name in names]).encode()).hexdigest()}


# ---- files and folders


def find_images(folder: Path, **options: Any) -> dict[str, Path]:
    """The same as `image_files`, as paths."""
    return {id: Path(name) for id, name in image_files(folder, **options).items()}


def image_files(
    folder: Path, *, flat: bool, tags: Sequence[str] = (), suffixes: Sequence[str] = IMAGE_ENDINGS
) -> dict[str, str]:
    """Every image below a folder by its id, in sorted order and in NFC; names, since a million of `Path` take seconds.

    Of two images with one id, the suffix named first has it; the other is called by its whole name, unless ids are `flat`.

    flat: ids are file names; otherwise paths below `folder`. Of those that differ in their tags alone, the last in order has it.
    """
    rank = {suffix: -place for place, suffix in enumerate(suffixes)}
    names = sorted(walk(folder, suffixes), key=lambda name: name.replace("/", "\0"))  # folder by folder
    names.sort(key=lambda name: rank[name[name.rindex(".") :].lower()])  # the last one stays
    found: dict[str, str] = {}
    for path in names:
        name = unicodedata.normalize("NFC", os.path.basename(path) if flat else path)
        id = strip_endings(name, tags)
        if id in found and not flat and suffixes is IMAGE_ENDINGS:
            found[unicodedata.normalize("NFC", found[id])] = found[id]
        found[id] = path
    top = str(folder)
    return {id: f"{top}/{found[id]}" for id in sorted(found)}


def walk(folder: Path, suffixes: Sequence[str]) -> Iterator[str]:
    """Every file below a folder with one of the endings, as a path below it, but hidden ones; links are followed.

    Raises:
        DataError: a name is no UTF-8, which no list, table or report can hold.
    """
    for inside, names in walk_folders(folder, hidden=False):
        for path in (inside + name for name in names if name.lower().endswith(tuple(suffixes))):
            if not path.isprintable() and (odd := printable(path)) != path:
                raise DataError(f"{folder} holds a name that is no UTF-8, {odd}; rename it (convmv -r -f latin1 -t utf8 --notest DIR)")
            yield path


def walk_folders(folder: Path, hidden: bool) -> Iterator[tuple[str, list[str]]]:
    """Every folder below one, with a slash at its end, and the names of its files; links are followed."""
    top = str(folder)
    for place, folders, names in os.walk(top, onerror=None if hidden else refuse_folder, followlinks=True):
        known = (name for name in folders if (hidden or name[0] != ".") and name != "lost+found")
        folders[:] = [name for name in known if not links_to_parent(Path(place, name))]
        yield "" if place == top else f"{os.path.relpath(place, top)}/", [name for name in names if hidden or name[0] != "."]


def refuse_folder(error: OSError) -> None:
    """`DataError` for a folder that cannot be listed; one that is not there holds nothing."""
    if not isinstance(error, FileNotFoundError):
        raise DataError(f"the folder {error.filename} cannot be read: {error.strerror}; make it readable, or move it elsewhere") from None


def printable(name: str) -> str:
    """A name of a file in which bytes that are no UTF-8 are written out."""
    return name.encode(errors="backslashreplace").decode()


def links_to_parent(folder: Path) -> bool:
    """Whether a folder is a link to one it lies in: followed, it would show every image again and again."""
    return folder.is_symlink() and any(parent.resolve().is_relative_to(folder.resolve()) for parent in folder.parents)


def strip_endings(name: str, tags: Sequence[str] = ()) -> str:
    """A path without image suffix and without any of the tags."""
    stem, dot, suffix = name.rpartition(".")
    name = stem if dot and f".{suffix.lower()}" in IMAGE_ENDINGS else name
    for tag in tags:
        name = name.removesuffix(tag)
    return name


def data_root(data: Data) -> Path:
    """The folder data.root as an absolute path; `DataError` with the nearest name if it is not there."""
    root = Path(data.root).expanduser().absolute()
    if not root.is_dir():
        raise DataError("; ".join(filter(None, [f"data.root is {data.root!r}, but there is no such folder", similar_path(root)])))
    return root


def find_path(key: str, value: str, *folders: Path) -> Path:
    """The file or folder that a value of the config names, looked for below each of `folders`, then from here."""
    tried = [folder / value for folder in folders] + [Path(value).expanduser().absolute()]
    tried += [path.with_name(path.name + ".txt") for path in tried]
    if found := next((path for path in tried if path.exists()), None):
        return found
    near = difflib.get_close_matches(Path(value).name, list_names(tried[0].parent), n=3)
    hint = f"; near it are {', '.join(near)}" if near else ""
    raise DataError(f"{key} is {value!r}, but there is no such list or folder in {' or '.join(map(str, folders))}{hint}")


def list_names(folder: Path) -> list[str]:
    """Names in a folder, sorted; none if there is no such folder."""
    return sorted(os.listdir(folder)) if folder.is_dir() else []


def find_duplicates(paths: Iterable[str | Path]) -> list[list[str]]:
    """Groups of files with the same bytes, in the order given; only files of one size are read.

    A file that cannot be read has no duplicates; the code that opens it next reports it.
    """
    groups = [list(dict.fromkeys(map(str, paths)))]
    for key in (os.path.getsize, lambda path: sha256(Path(path))):
        found: dict[Any, list[str]] = defaultdict(list)
        for path in progress([path for group in groups for path in group], "duplicates"):
            with suppress(OSError):
                found[key(path)].append(path)
        groups = [group for group in found.values() if len(group) > 1]
    return groups


def hold_out(shown: Sequence[Collection[int]], count: int, seed: int) -> list[int]:
    """The places of at most `count` images, drawn at random but for those that leave a class without an image.

    shown: the ids in the mask of every image.
    """
    left, held = Counter(index for ids in shown for index in set(ids)), []
    for place in numpy_generator(seed, Stream.HELD_OUT).permutation(len(shown)).tolist():
        if len(held) < count and all(left[index] > 1 for index in shown[place]):
            held.append(place)
            left.subtract(set(shown[place]))
    return held
