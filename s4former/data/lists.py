"""From names to rows: what a list file or a folder says, which files are meant, and whether all of them are there.

No name leads out of the data folder: lists come from anywhere. Links in the folder are followed: whoever owns it made them,
often to another disk. A name that leads nowhere is answered with the nearest one that does.
"""

import difflib
import hashlib
import os
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Iterable, Sequence

import datasets

from ..config import Data
from ..errors import DataError, plural
from .images import IMAGE_ENDINGS
from .masks import MASK_ENDINGS


@dataclass(frozen=True)
class Sample:
    """One image: absolute paths (or "shapes:SEED:INDEX:HEIGHTxWIDTH"), mask `None` where there is none."""

    image: str
    mask: str | None
    id: str


@dataclass(kw_only=True)
class Found:
    """What a source function found: rows (or ready tables) by part, and what it knows about the classes."""

    parts: dict[str, list[Sample] | datasets.Dataset]
    classes: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Layout:
    """Which files belong to an id."""

    root: Path
    images: dict[str, Path]
    masks: dict[str, Path]
    flat: bool  # ids are file names; otherwise they are paths below the image folder
    tags: tuple[str, ...] = ()  # endings of file names that are not part of the id
    where: str = ""  # the image folder, for messages
    masks_where: str = ""  # the same for the masks

    def id_of(self, name: str) -> str | None:
        """The id that a list means by `name`, with or without suffix, folder and tag; None if there is no image."""
        name = strip_endings(name.removeprefix("./").lstrip("/"), self.tags)
        short = PurePosixPath(name).name
        names = (name, short) if self.flat else (name, name.removeprefix("images/"))
        found = next((each for each in names if each in self.images), None)
        return self.deeper.get(name) if found is None and not self.flat else found

    @cached_property
    def deeper(self) -> dict[str, str]:
        """File name -> id of the images in subfolders, as far as a file name stands for one image only."""
        names = {each: PurePosixPath(each).name for each in self.images}
        count = Counter(names.values())
        return {name: each for each, name in names.items() if count[name] == 1}


# ---- list files


def read_list(key: str, path: Path, layout: Layout, *, masks: bool) -> list[Sample]:
    """The rows of a list file: an id a line, or an image and its mask as paths below the data folder."""
    lines = [line.strip() for line in read_text_lines(path)]
    lines = [line for line in lines if line and not line.startswith("#")]
    if not lines:
        raise DataError(f"{key}: the list {path} is empty")
    rows, lost = [], []
    for line in lines:
        check_inside(key, path, line, layout.root)
        row = row_of_line(line, layout, masks)
        if row is None:
            lost.append(line)
        else:
            rows.append(row)
    if lost:
        near = difflib.get_close_matches(strip_endings(lost[0], layout.tags), layout.images, n=1)
        raise DataError(
            f"{key}: {plural(len(lost), 'id')} of {path} {'has' if len(lost) == 1 else 'have'} no image in"
            f" {layout.where}, the first: {lost[0]}" + (f" (the nearest name is {near[0]})" if near else "")
            + (f"; a leading / means {layout.root}, since a list may not lead out of it" if lost[0].startswith("/") else "")
        )
    return check_samples(key, path, rows, layout.masks_where if masks else "")


def row_of_line(line: str, layout: Layout, masks: bool) -> Sample | None:
    """The row of one line; None if there is no such image. File names may hold spaces, so one name is tried first, and
    a tab parts two of them where there is one.

    Where the layout is known (`flat`), the image alone says which mask: lists of other projects name masks that were
    never made here. In a folder of one's own, the second column counts.
    """
    columns = line.split("\t") if "\t" in line else line.split()
    for image, *given in ([line], columns) if len(columns) == 2 else ([line],):
        name = layout.id_of(image)
        path = layout.images[name] if name else layout.root / image.lstrip("/")
        if name is None and (layout.flat or not path.is_file()):
            continue
        name = name or strip_endings(path.relative_to(layout.root).as_posix())
        mask = layout.root / given[0].lstrip("/") if given and not layout.flat else layout.masks.get(name)
        return Sample(str(path), str(mask) if masks and mask and mask.is_file() else None, name)
    return None


def check_inside(key: str, path: Path, line: str, root: Path) -> None:
    """Refuses a line that points out of the data folder. A leading slash means the folder, as VOC's lists have it."""
    if ".." in PurePosixPath(line).parts or any(".." in PurePosixPath(part).parts for part in line.split()):
        raise DataError(f"{key}: {path} has the line {line!r}, which leaves the data folder {root}; use ids below it")


def check_samples(key: str, origin: Path | str, rows: list[Sample], masks: str) -> list[Sample]:
    """The rows, after making sure that none is there twice and, if `masks` names their place, that all have one."""
    twice = [name for name, count in Counter(row.id for row in rows).items() if count > 1]
    if twice:
        raise DataError(f"{key}: {origin} names {plural(len(twice), 'id')} more than once, the first: {twice[0]}")
    lost = [row.id for row in rows if row.mask is None] if masks else []
    if lost:
        raise DataError(
            f"{key}: {plural(len(lost), 'image')} of {origin} {'has' if len(lost) == 1 else 'have'} no mask in"
            f" {masks}, the first: {lost[0]}; a mask has the name of its image and one of the endings"
            f" {', '.join(MASK_ENDINGS)}"
        )
    return rows


def read_text_lines(path: Path) -> list[str]:
    """The lines of a text file; `DataError` if it is none."""
    try:
        return path.read_text().splitlines()
    except (UnicodeDecodeError, OSError) as error:
        raise DataError(f"the list {path} cannot be read as text: {error}") from None


def list_fingerprint(ids: Iterable[str]) -> dict[str, Any]:
    """How many ids, and the SHA-256 of them sorted, one a line: what `LC_ALL=C sort LIST | sha256sum` prints."""
    text = "".join(f"{name}\n" for name in sorted(ids))
    return {"images": text.count("\n"), "sha256": hashlib.sha256(text.encode()).hexdigest()}


# ---- files and folders


def find_images(
    folder: Path, *, flat: bool, tags: Sequence[str] = (), only: str = "", suffixes: Sequence[str] = IMAGE_ENDINGS
) -> dict[str, Path]:
    """Every picture below a folder by its id, in sorted order; of two with one id, the suffix named first wins.

    Args:
        flat: ids are file names; otherwise paths below `folder`.
        only: what file names without suffix must end in.
    """
    files = []
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".") and not links_to_parent(Path(place, name))]
        files += [Path(place, name) for name in names if not name.startswith(".")]
    files = [file for file in files if file.suffix.lower() in suffixes and file.stem.endswith(only)]
    files.sort(key=lambda file: (-suffixes.index(file.suffix.lower()), file))  # the last one stays
    found = {strip_endings(file.name if flat else file.relative_to(folder).as_posix(), tags): file for file in files}
    return dict(sorted(found.items()))


def links_to_parent(folder: Path) -> bool:
    """Whether a folder is a link to one it lies in: followed, it would show every picture again and again."""
    return folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve())


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
        near = difflib.get_close_matches(root.name, list_names(root.parent), n=1)
        raise DataError(
            f"data.root is {data.root!r}, but there is no such folder"
            + (f"; did you mean {root.parent / near[0]}?" if near else "")
        )
    return root


def find_path(key: str, value: str, *folders: Path) -> Path:
    """The file or folder that a value of the config names, looked for below each of `folders`, then from here."""
    tried = [folder / value for folder in folders] + [Path(value).expanduser().absolute()]
    tried += [path.with_name(path.name + ".txt") for path in tried]
    for path in tried:
        if path.exists():
            return path
    near = difflib.get_close_matches(Path(value).name, list_names(tried[0].parent), n=3)
    raise DataError(
        f"{key} is {value!r}, but there is no such list or folder in {' or '.join(map(str, folders))}"
        + (f"; near it are {', '.join(near)}" if near else "")
    )


def list_names(folder: Path) -> list[str]:
    """Names in a folder, sorted; none if there is no such folder."""
    return sorted(os.listdir(folder)) if folder.is_dir() else []
