"""From what lies on disk (or on the Hub, or is drawn) to three tables of rows, and from a row to arrays.

A row has an `image`, an `id`, and a `mask` where it is labelled. The unlabelled pool has no mask column: what is not
there cannot leak. Images and masks are opened by the two functions of this room and nowhere else, so every error names
its file, and every palette keeps its ids. A new kind of data is one function and one entry of `SOURCES`.
"""

import difflib
import hashlib
import io
import json
import os
import struct
import zlib
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Callable, Iterable, Sequence

import datasets
import numpy as np
from PIL import Image, ImageOps

from . import shapes
from .config import Data
from .pseudo import IGNORE_INDEX

PARTS = ("labeled", "unlabeled", "validation")
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif")  # in order of preference
MASK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif")  # JPEG would smear the ids
EXIF_ORIENTATION = 0x0112
FIRST_VALIDATION_SCENE = 1_000_000  # so that more training scenes never reach the ones for evaluation
BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


class DataError(ValueError):
    """Data that cannot be used; the message says which file, which rule, and what to do instead."""


@dataclass(frozen=True)
class Row:
    """One image: absolute paths (or "shapes:SEED:INDEX:HEIGHTxWIDTH"), mask `None` where there is none."""

    image: str
    mask: str | None
    id: str


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What a run trains and is evaluated on. Tables have columns image, id and, but for the pool, mask."""

    labeled: datasets.Dataset
    unlabeled: datasets.Dataset
    validation: datasets.Dataset
    classes: tuple[str, ...]  # names, id 0 first
    notes: tuple[str, ...]  # lines for the log
    lists: dict[str, dict[str, Any]]  # part -> {"images": count, "sha256": of the sorted ids, one a line}


@dataclass(kw_only=True)
class Found:
    """What a source function found: rows (or ready tables) by part, and what it knows about the classes."""

    parts: dict[str, list[Row] | datasets.Dataset]
    classes: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)


# ---- opening one image, one mask -----------------------------------------------------------------------------------


def read_image(record: dict[str, Any]) -> Image.Image:
    """The picture of a row's `image` cell as RGB, turned upright if its EXIF data says so.

    Args:
        record: {"path", "bytes"}, as `datasets.Image(decode=False)` gives it.

    Raises:
        DataError: names the file that is missing, broken, or has more than 8 bits per channel.
    """
    if is_drawn(record):
        return Image.fromarray(drawn(record["path"])[0])
    with opened(record, "image") as image:
        if image.mode.startswith("I") or image.mode == "F":
            raise DataError(
                f"image {name_of(record)} has more than 8 bits per channel (mode {image.mode}); save it as 8-bit"
            )
        # a palette may hold transparency, which Pillow only takes apart on the way through RGBA
        return (image.convert("RGBA") if image.mode == "P" else image).convert("RGB")


def read_mask(record: dict[str, Any], data: Data, num_classes: int) -> np.ndarray:
    """The class ids of a row's `mask` cell: (H, W) uint8, 255 = ignore. Palettes keep their ids.

    `data.id_map` is applied first, then `data.ignore_index`; a mapped value counts as a class if there is such a
    class, else it has to be `data.ignore_index` or 255.

    Raises:
        DataError: names the file and the ids that are no classes, or says that the mask has colours instead of ids.
    """
    if record is None:
        raise DataError("a labelled row of the dataset has no mask; leave such rows out of data.labeled")
    if is_drawn(record):
        ids = drawn(record["path"])[1]
    else:
        with opened(record, "mask") as mask:
            if mask.mode not in ("L", "P", "1", "I", "I;16", "I;16B"):
                raise DataError(
                    f"mask {name_of(record)} holds colours (mode {mask.mode}), not class ids; save it as a palette or"
                    " grey PNG whose pixel values are the ids"
                )
            ids = np.array(mask).astype(np.int64 if mask.mode.startswith("I") else np.uint8)
    table = id_table(data, num_classes, record["path"] or "")
    values = table[ids if ids.dtype == np.uint8 else np.where(ids < 0, len(table), ids).clip(max=len(table) - 1)]
    if values.max(initial=0) > IGNORE_INDEX:
        wrong = np.unique(ids[values > IGNORE_INDEX]).tolist()
        raise DataError(
            f"mask {name_of(record)} has the id{'s' if len(wrong) > 1 else ''} {some(wrong)}, but the {num_classes}"
            f" classes have ids 0 to {num_classes - 1} and {data.ignore_index} is ignored; map ids with data.id_map, or"
            " set data.classes or data.ignore_index"
        )
    return values.astype(np.uint8)


def read_pair(row: dict[str, Any], data: Data, num_classes: int) -> tuple[Image.Image, np.ndarray]:
    """Image and mask of a labelled row; `DataError` if they do not have the same size."""
    image, mask = read_image(row["image"]), read_mask(row["mask"], data, num_classes)
    check_sizes(row, (image.height, image.width), mask.shape)
    return image, mask


def check_sizes(row: dict[str, Any], image: tuple[int, int], mask: tuple[int, int]) -> None:
    if image != mask:
        raise DataError(
            f"image {name_of(row['image'])} is {image[1]}x{image[0]} and its mask {name_of(row['mask'])} is"
            f" {mask[1]}x{mask[0]} (width x height); both must have the same size"
            + (", and the image is turned by its EXIF orientation" if image == mask[::-1] else "")
        )


def id_table(data: Data, num_classes: int, path: str) -> np.ndarray:
    """(65536,) int16: id in a mask -> class, 255 = ignore, 256 = neither."""
    table = np.full(65536, IGNORE_INDEX + 1, np.int16)
    table[:num_classes] = np.arange(num_classes)
    table[min(data.ignore_index, len(table) - 1)] = IGNORE_INDEX
    id_map = data.id_map
    if data.source == "cityscapes" and not id_map and "labelTrainIds" not in PurePosixPath(path).name:
        id_map = CITYSCAPES_TRAIN_IDS
    for raw, target in id_map.items():
        if not (raw.isdecimal() and int(raw) < len(table)):
            raise DataError(f"data.id_map has the key {raw!r}; keys are the ids in the masks, 0 to {len(table) - 1}")
        if 0 <= target < num_classes:
            table[int(raw)] = target
        elif target in (data.ignore_index, IGNORE_INDEX):
            table[int(raw)] = IGNORE_INDEX
        else:
            raise DataError(
                f"data.id_map.{raw} is {target}; use a class id from 0 to {num_classes - 1}, or"
                f" {data.ignore_index} to ignore it"
            )
    return table


def opened(record: dict[str, Any], kind: str) -> Image.Image:
    """The decoded picture of a cell; whatever is wrong with the file becomes a `DataError` that names it."""
    try:
        image = Image.open(encoded(record))
        image.load()
        if kind == "image":  # masks are taken as they lie; if that was wrong, the sizes mostly tell
            image = ImageOps.exif_transpose(image)
    except FileNotFoundError:
        raise DataError(f"{kind} {name_of(record)} does not exist") from None
    except BROKEN as error:
        raise DataError(f"{kind} {name_of(record)} cannot be read: {error}") from None
    return image


def encoded(record: dict[str, Any]) -> io.BytesIO:
    return io.BytesIO(Path(record["path"]).read_bytes() if record["bytes"] is None else record["bytes"])


def name_of(record: dict[str, Any]) -> str:
    return record["path"] or "(held in the dataset without a file name)"


def is_drawn(record: dict[str, Any]) -> bool:
    return record["bytes"] is None and record["path"].startswith("shapes:")


@lru_cache(maxsize=64)  # image and mask of a row are asked for one after the other
def drawn(path: str) -> tuple[np.ndarray, np.ndarray]:
    """The scene of "shapes:SEED:INDEX:HEIGHTxWIDTH": (H, W, 3) and (H, W) uint8."""
    _, seed, index, size = path.split(":")
    height, width = map(int, size.split("x"))
    return shapes.scene(int(seed), int(index), height=height, width=width)


# ---- all three tables ----------------------------------------------------------------------------------------------


def load_sources(data: Data, *, training: bool = True) -> Sources:
    """The tables of a config, checked as far as that goes without opening a picture.

    Args:
        training: False reads the evaluation part only; the other two are empty.

    Raises:
        DataError: one sentence about the first thing that is wrong.
    """
    parts = PARTS if training else PARTS[2:]
    if not data.root and data.source != "shapes":
        what = "the id or the folder of a dataset" if data.source == "hub" else "the folder that holds the data"
        raise DataError(f"data.root is empty; write data.root=... with {what}")
    found = SOURCES[data.source](data, parts)
    classes = class_names(data, found.classes)
    notes = list(found.notes)
    if all(isinstance(rows, list) for rows in found.parts.values()):
        notes += separate(data, found.parts)
    tables = {part: table_of(found.parts.get(part, []), masks=part != "unlabeled") for part in PARTS}
    if training and not len(tables["unlabeled"]):
        notes.append("the unlabelled pool is empty: every training image is labelled")
    lists = {part: list_facts(tables[part]["id"]) for part in PARTS}
    return Sources(**tables, classes=classes, notes=tuple(notes), lists=lists)


def separate(data: Data, parts: dict[str, list[Row]]) -> list[str]:
    """Takes labelled images out of the pool, with a note, and refuses what is both trained and evaluated on."""
    notes = []
    labeled = {row.image for row in parts.get("labeled", [])}
    pool = [row for row in parts.get("unlabeled", []) if row.image not in labeled]
    if "unlabeled" in parts and len(pool) < len(parts["unlabeled"]):
        if data.unlabeled:
            out = plural(len(parts["unlabeled"]) - len(pool), "labelled image")
            notes.append(f"taken out of the pool: {out} of data.unlabeled")
        parts["unlabeled"] = pool
    held_out = {row.image for row in parts["validation"]}
    for part in ("labeled", "unlabeled"):
        both = sorted(row.id for row in parts.get(part, []) if row.image in held_out)
        if both:
            raise DataError(
                f"{plural(len(both), 'image')} of data.{part} {'is' if len(both) == 1 else 'are'} also in"
                f" data.validation, the first: {both[0]}; an image is either trained on or evaluated on"
            )
    return notes


def table_of(rows: list[Row] | datasets.Dataset, *, masks: bool) -> datasets.Dataset:
    """A `datasets.Dataset` of rows, sorted by id, so that the order of a list file changes nothing."""
    if isinstance(rows, datasets.Dataset):
        return rows
    rows = sorted(rows, key=lambda row: row.id)
    columns: dict[str, list[Any]] = {"image": [row.image for row in rows], "id": [row.id for row in rows]}
    if masks:
        columns["mask"] = [row.mask for row in rows]
    features = {"image": datasets.Value("string"), "mask": datasets.Value("string"), "id": datasets.Value("string")}
    table = datasets.Dataset.from_dict(columns, features=datasets.Features({k: features[k] for k in columns}))
    return undecoded(table)


def undecoded(table: datasets.Dataset) -> datasets.Dataset:
    for column in ("image", "mask"):
        if column in table.column_names:
            table = table.cast_column(column, datasets.Image(decode=False))
    return table


def list_facts(ids: Iterable[str]) -> dict[str, Any]:
    """How many ids, and the SHA-256 of them sorted, one a line: what `LC_ALL=C sort LIST | sha256sum` prints."""
    text = "".join(f"{name}\n" for name in sorted(ids))
    return {"images": text.count("\n"), "sha256": hashlib.sha256(text.encode()).hexdigest()}


def class_names(data: Data, known: tuple[str, ...]) -> tuple[str, ...]:
    """`data.classes`, else `data.classes_file`, else those of the source, else classes.json in the data folder."""
    names, origin = data.classes, "data.classes"
    if not names and data.classes_file:
        path = existing("data.classes_file", data.classes_file, Path(data.root))
        names, origin = names_in(path), str(path)
    elif not names and known:
        names, origin = known, f"the source {data.source}"
    elif not names:
        path = Path(data.root) / "classes.json"
        if not path.is_file():
            raise DataError(
                'no class names: write data.classes=["name of id 0", "name of id 1", ...], or give a JSON file with'
                f" data.classes_file=..., or put it at {path}"
            )
        names, origin = names_in(path), str(path)
    twice = [name for name, count in Counter(names).items() if count > 1]
    if len(names) < 2 or len(names) > IGNORE_INDEX or twice:
        count = f"{plural(len(names), 'name')}; it must be 2 to {IGNORE_INDEX}"
        rule = f"{twice[0]!r} is there twice" if twice else count
        raise DataError(f"the class names of {origin} cannot be used: {rule}")
    return tuple(names)


def names_in(path: Path) -> tuple[str, ...]:
    """Class names of a JSON file: a list, or a mapping from the ids 0, 1, 2 ..."""
    try:
        names = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is not valid JSON: line {error.lineno}, column {error.colno}: {error.msg}") from None
    if isinstance(names, dict) and set(names) == {str(i) for i in range(len(names))}:
        names = [names[str(i)] for i in range(len(names))]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f'{path} has no class names; write a list, ["sky", "road"], or {{"0": "sky", "1": "road"}}')
    return tuple(names)


def check_masks(sources: Sources, data: Data, limit: int = 100) -> tuple[str, ...]:
    """Opens every labelled mask, and `limit` evaluation masks spread over the list, before a run begins.

    Returns:
        Lines for the log: the classes that no labelled pixel shows.

    Raises:
        DataError: for the first mask that cannot be used, or if the labels show nothing but class 0.
    """
    if data.source == "shapes":  # drawn by ourselves, and slower to draw than to trust
        return ()
    count = np.zeros(IGNORE_INDEX + 1, np.int64)
    for row in sources.labeled:
        count += np.bincount(checked_mask(row, data, len(sources.classes)).ravel(), minlength=len(count))
    if not count[1:IGNORE_INDEX].any():
        raise DataError(
            "the labelled masks show nothing but class 0"
            + (' and ignored pixels; if 255 means a class there, write data.id_map={"255": 1}' if count[-1] else "")
        )
    total = len(sources.validation)
    for index in np.unique(np.linspace(0, total - 1, min(limit, total)).astype(int)):
        checked_mask(sources.validation[int(index)], data, len(sources.classes))
    absent = [name for name, pixels in zip(sources.classes, count) if not pixels]
    return (f"no labelled pixel shows {some(absent)}",) if absent else ()


def checked_mask(row: dict[str, Any], data: Data, num_classes: int) -> np.ndarray:
    """The mask of a row, compared with the size its image states; the image itself is not decoded."""
    mask = read_mask(row["mask"], data, num_classes)
    check_sizes(row, stated_size(row["image"]), mask.shape)
    return mask


def stated_size(record: dict[str, Any]) -> tuple[int, int]:
    """(height, width) of an image once it stands upright, from its header."""
    try:
        with Image.open(record["path"] if record["bytes"] is None else encoded(record)) as image:
            turned = image.getexif().get(EXIF_ORIENTATION, 1) >= 5
            return (image.width, image.height) if turned else (image.height, image.width)
    except BROKEN as error:
        raise DataError(f"image {name_of(record)} cannot be read: {error}") from None


# ---- lists and folders ---------------------------------------------------------------------------------------------


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
        name = bare(name.removeprefix("./").lstrip("/"), self.tags)
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


def rows_of_list(key: str, path: Path, layout: Layout, *, masks: bool) -> list[Row]:
    """The rows of a list file: an id a line, or an image and its mask as paths below the data folder."""
    lines = [line.strip() for line in read_lines(path)]
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
        near = difflib.get_close_matches(bare(lost[0], layout.tags), layout.images, n=1)
        raise DataError(
            f"{key}: {plural(len(lost), 'id')} of {path} {'has' if len(lost) == 1 else 'have'} no image in"
            f" {layout.where}, the first: {lost[0]}" + (f" (the nearest name is {near[0]})" if near else "")
        )
    return complete(key, path, rows, layout.masks_where if masks else "")


def row_of_line(line: str, layout: Layout, masks: bool) -> Row | None:
    """The row of one line; None if there is no such image. File names may hold spaces, so one name is tried first.

    Where the layout is known (`flat`), the image alone says which mask: lists of other projects name masks that were
    never made here. In a folder of one's own, the second column counts.
    """
    columns = line.split()
    for image, *given in ([line], columns) if len(columns) == 2 else ([line],):
        name = layout.id_of(image)
        path = layout.images[name] if name else layout.root / image.lstrip("/")
        if name is None and (layout.flat or not path.is_file()):
            continue
        name = name or bare(path.relative_to(layout.root).as_posix())
        mask = layout.root / given[0].lstrip("/") if given and not layout.flat else layout.masks.get(name)
        return Row(str(path), str(mask) if masks and mask and mask.is_file() else None, name)
    return None


def check_inside(key: str, path: Path, line: str, root: Path) -> None:
    """Refuses a line that points out of the data folder. A leading slash means the folder, as VOC's lists have it."""
    if ".." in PurePosixPath(line).parts or any(".." in PurePosixPath(part).parts for part in line.split()):
        raise DataError(f"{key}: {path} has the line {line!r}, which leaves the data folder {root}; use ids below it")


def complete(key: str, origin: Path | str, rows: list[Row], masks: str) -> list[Row]:
    """The rows, after making sure that none is there twice and, if `masks` names their place, that all have one."""
    twice = [name for name, count in Counter(row.id for row in rows).items() if count > 1]
    if twice:
        raise DataError(f"{key}: {origin} names {plural(len(twice), 'id')} more than once, the first: {twice[0]}")
    lost = [row.id for row in rows if row.mask is None] if masks else []
    if lost:
        raise DataError(
            f"{key}: {plural(len(lost), 'image')} of {origin} {'has' if len(lost) == 1 else 'have'} no mask in"
            f" {masks}, the first: {lost[0]}; a mask has the name of its image and one of the endings"
            f" {', '.join(MASK_SUFFIXES)}"
        )
    return rows


def read_lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except (UnicodeDecodeError, OSError) as error:
        raise DataError(f"the list {path} cannot be read as text: {error}") from None


def bare(name: str, tags: Sequence[str] = ()) -> str:
    """A path without image suffix and without any of the tags."""
    stem, dot, suffix = name.rpartition(".")
    name = stem if dot and f".{suffix.lower()}" in SUFFIXES else name
    for tag in tags:
        name = name.removesuffix(tag)
    return name


def pictures(
    folder: Path, *, flat: bool, tags: Sequence[str] = (), only: str = "", suffixes: Sequence[str] = SUFFIXES
) -> dict[str, Path]:
    """Every picture below a folder by its id, in sorted order; of two with one id, the suffix named first wins.

    Args:
        flat: ids are file names; otherwise paths below `folder`.
        only: what file names without suffix must end in.
    """
    files = []
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [Path(place, name) for name in names if not name.startswith(".")]
    files = [file for file in files if file.suffix.lower() in suffixes and file.stem.endswith(only)]
    files.sort(key=lambda file: (-suffixes.index(file.suffix.lower()), file))  # the last one stays
    found = {bare(file.name if flat else file.relative_to(folder).as_posix(), tags): file for file in files}
    return dict(sorted(found.items()))


def root_of(data: Data) -> Path:
    root = Path(data.root).expanduser().absolute()
    if not root.is_dir():
        near = difflib.get_close_matches(root.name, names_below(root.parent), n=1)
        raise DataError(
            f"data.root is {data.root!r}, but there is no such folder"
            + (f"; did you mean {root.parent / near[0]}?" if near else "")
        )
    return root


def names_below(folder: Path) -> list[str]:
    return sorted(os.listdir(folder)) if folder.is_dir() else []


def existing(key: str, value: str, *folders: Path) -> Path:
    """The file or folder that a value of the config names, looked for below each of `folders`, then from here."""
    tried = [folder / value for folder in folders] + [Path(value).expanduser().absolute()]
    tried += [path.with_name(path.name + ".txt") for path in tried]
    for path in tried:
        if path.exists():
            return path
    near = difflib.get_close_matches(Path(value).name, names_below(tried[0].parent), n=3)
    raise DataError(
        f"{key} is {value!r}, but there is no such list or folder in {' or '.join(map(str, folders))}"
        + (f"; near it are {', '.join(near)}" if near else "")
    )


def plural(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def some(values: Sequence[Any], most: int = 8) -> str:
    """'1, 2, 3': at most eight of them."""
    return ", ".join(map(str, values[:most])) + (f" and {len(values) - most} more" if len(values) > most else "")


# ---- the sources ---------------------------------------------------------------------------------------------------


def folder(data: Data, parts: Sequence[str]) -> Found:
    """images/ and masks/ with list files, or a subfolder for each part."""
    root = root_of(data)
    layout = folder_layout(root, root / "images", root / "masks")
    found: dict[str, list[Row]] = {}
    for part in parts:
        key, value, masks = f"data.{part}", getattr(data, part), part != "unlabeled"
        if value:
            path = existing(key, value, root, root / "images")
            if path.is_dir():
                found[part] = rows_of_folder(key, path, root, masks)
            else:
                found[part] = rows_of_list(key, path, layout, masks=masks)
        elif masks:
            raise DataError(f"{key} is empty; write {key}=... with a list file or a subfolder of {root}")
    if "unlabeled" in parts and not data.unlabeled:
        if not layout.images:
            raise DataError(f"data.unlabeled is empty and there are no images in {layout.where}; name a list or folder")
        taken = {row.image for rows in found.values() for row in rows}
        rest = {name: path for name, path in layout.images.items() if str(path) not in taken}
        found["unlabeled"] = [Row(str(path), None, name) for name, path in rest.items()]
    return Found(parts=found)


def folder_layout(root: Path, images: Path, masks: Path) -> Layout:
    found = pictures(masks, flat=False, suffixes=MASK_SUFFIXES)
    return Layout(root, pictures(images, flat=False), found, flat=False, where=str(images), masks_where=str(masks))


def rows_of_folder(key: str, path: Path, root: Path, masks: bool) -> list[Row]:
    """Every image of a subfolder; masks lie in masks/ beside its images/, or in the same place below masks/."""
    images, where = path, path / "masks"
    if (path / "images").is_dir():
        images = path / "images"
    elif path.is_relative_to(root / "images"):
        where = root / "masks" / path.relative_to(root / "images")
    layout = folder_layout(root, images, where)
    if not layout.images:
        raise DataError(f"{key}: there are no images in {images}")
    # the mask of an image in PATH may lie in PATH/masks, which is then no image
    names = [name for name, file in layout.images.items() if images != path or not file.is_relative_to(path / "masks")]
    rows = [Row(str(layout.images[n]), str(layout.masks[n]) if masks and n in layout.masks else None, n) for n in names]
    return complete(key, images, rows, str(where) if masks else "")


def voc(data: Data, parts: Sequence[str]) -> Found:
    """The official VOCdevkit tree. Original masks are preferred, SegmentationClassAug fills in where there is none."""
    root = first_with(root_of(data), "JPEGImages", "", "VOC2012", "VOCdevkit/VOC2012")
    lists = root / "ImageSets" / "Segmentation"
    masks: dict[str, Path] = {}
    for kind in ("SegmentationClassAug", "SegmentationClass"):  # the second wins
        masks |= pictures(root / kind, flat=True, suffixes=MASK_SUFFIXES)
    layout = Layout(
        root, pictures(root / "JPEGImages", flat=True), masks, flat=True,
        where=str(root / "JPEGImages"), masks_where=f"SegmentationClass or SegmentationClassAug of {root}",
    )  # fmt: skip
    pool = [path for path in (lists / "train.txt", lists / "trainaug.txt", lists / "train_aug.txt") if path.is_file()]

    def train() -> list[Row]:
        rows = [row for path in pool for row in rows_of_list("data.unlabeled", path, layout, masks=False)]
        return list({row.id: row for row in rows}.values())

    def val() -> list[Row]:
        return rows_of_list("data.validation", existing("data.validation", "val.txt", lists), layout, masks=True)

    found = listed(data, parts, layout, (root, lists), {"unlabeled": train, "validation": val})
    notes = []
    if "unlabeled" in parts and not data.unlabeled:
        notes.append(f"data.unlabeled is empty: the pool is {' and '.join(path.name for path in pool)} of {lists}")
    return Found(parts=found, classes=VOC_CLASSES, notes=notes)


def cityscapes(data: Data, parts: Sequence[str]) -> Found:
    """leftImg8bit and gtFine as they unpack; labelTrainIds where they were made, labelIds mapped by our table."""
    root = root_of(data)
    halves = {half: root / "leftImg8bit" / half for half in ("train", "val")}
    for path in halves.values():
        if not path.is_dir():
            raise DataError(f"data.root is {data.root!r}, but {path} is missing; it must hold leftImg8bit and gtFine")
    images = {half: pictures(path, flat=True, tags=("_leftImg8bit",)) for half, path in halves.items()}
    masks: dict[str, Path] = {}
    for kind in ("_gtFine_labelIds", "_gtFine_labelTrainIds"):  # the second wins
        masks |= pictures(root / "gtFine", flat=True, tags=(kind,), only=kind, suffixes=MASK_SUFFIXES)
    layout = Layout(
        root, images["train"] | images["val"], masks, flat=True, tags=("_leftImg8bit",),
        where=str(root / "leftImg8bit"), masks_where=f"{root / 'gtFine'} (…_gtFine_labelIds.png)",
    )  # fmt: skip
    found = listed(data, parts, layout, (root,), halves_as_defaults(images, layout))
    return Found(parts=found, classes=CITYSCAPES_CLASSES)


def coco(data: Data, parts: Sequence[str]) -> Found:
    """train2017 and val2017, and masks/ with PNGs of the ids 0 (no thing) and 1 to 80 (things in COCO's order)."""
    root = root_of(data)
    places = {half: first_with(root, half, "", "images") / half for half in ("train2017", "val2017")}
    images = {half[:-4]: pictures(path, flat=True) for half, path in places.items()}
    masks = pictures(root / "masks", flat=True, suffixes=MASK_SUFFIXES)
    layout = Layout(
        root, images["train"] | images["val"], masks, flat=True, where=str(root), masks_where=str(root / "masks")
    )
    found = listed(data, parts, layout, (root,), halves_as_defaults(images, layout))
    return Found(parts=found, classes=COCO_CLASSES)


def halves_as_defaults(images: dict[str, dict[str, Path]], layout: Layout) -> dict[str, Callable[[], list[Row]]]:
    """The whole train half as the pool, the whole val half for evaluation."""

    def rows(half: str, masks: bool) -> list[Row]:
        seen = layout.masks if masks else {}
        found = [Row(str(path), str(seen[name]) if name in seen else None, name) for name, path in images[half].items()]
        key = "data.validation" if masks else "data.unlabeled"
        return complete(key, f"the {half} half", found, layout.masks_where if masks else "")

    return {"unlabeled": lambda: rows("train", False), "validation": lambda: rows("val", True)}


def listed(
    data: Data,
    parts: Sequence[str],
    layout: Layout,
    places: Sequence[Path],
    defaults: dict[str, Callable[[], list[Row]]],
) -> dict[str, list[Row]]:
    """The rows of each part from its list, looked for in `places`, or from its default."""
    found = {}
    for part in parts:
        key, value = f"data.{part}", getattr(data, part)
        if value:
            path = existing(key, value, *places)
            if path.is_dir():
                raise DataError(f"{key} is {value!r}, which is a folder; the source {data.source} takes list files")
            found[part] = rows_of_list(key, path, layout, masks=part != "unlabeled")
        elif part in defaults:
            found[part] = defaults[part]()
        else:
            raise DataError(f"{key} is empty; write {key}=... with the list file of the labelled images")
    return found


def first_with(root: Path, name: str, *below: str) -> Path:
    """The first of the folders `below` the root that holds `name`."""
    for folder in below:
        if (root / folder / name).is_dir():
            return root / folder
    raise DataError(f"there is no folder {name} in {' or '.join(str(root / folder) for folder in below)}")


def drawn_scenes(data: Data, parts: Sequence[str]) -> Found:
    """The embedded world: scenes drawn when they are asked for, so there is nothing to download."""
    world = data.shapes
    starts = {"labeled": 0, "unlabeled": world.labeled, "validation": FIRST_VALIDATION_SCENE}
    found: dict[str, list[Row] | datasets.Dataset] = {}
    for part in parts:
        paths = [
            (index, f"shapes:{world.seed}:{index}:{world.height}x{world.width}")
            for index in range(starts[part], starts[part] + getattr(world, part))
        ]
        found[part] = [Row(path, path if part != "unlabeled" else None, f"{index:07d}") for index, path in paths]
    return Found(parts=found, classes=tuple(shapes.CLASSES))


# ---- the Hub -------------------------------------------------------------------------------------------------------

IMAGE_COLUMNS = ("image", "img", "pixel_values")
MASK_COLUMNS = ("mask", "label", "annotation", "segmentation", "segmentation_mask", "semantic_segmentation", "labels")
ID_COLUMNS = ("id", "image_id", "file_name", "filename", "name")


def hub(data: Data, parts: Sequence[str]) -> Found:
    """A dataset of the Hub, or a folder with one: the splits train and validation, columns for image and mask."""
    splits = hub_splits(data.root)
    validation = data.validation or next((name for name in ("validation", "val", "test") if name in splits), "")
    found: dict[str, list[Row] | datasets.Dataset] = {"validation": hub_table(data, splits, validation, "validation")}
    if parts == PARTS[2:]:
        return Found(parts=found)
    train = hub_table(data, splits, "train", "labeled")
    chosen = hub_choice("data.labeled", data.labeled, train)
    if data.unlabeled in splits:
        if data.unlabeled == validation:
            raise DataError(f"data.unlabeled and the evaluation are both the split {validation!r}; choose another")
        pool = hub_table(data, splits, data.unlabeled, "unlabeled")
    else:
        rest = hub_choice("data.unlabeled", data.unlabeled, train) if data.unlabeled else range(len(train))
        pool = train.select(sorted(set(rest) - set(chosen))).remove_columns("mask")
    found |= {"labeled": train.select(chosen), "unlabeled": pool}
    origin = f"the split {data.unlabeled}" if data.unlabeled in splits else f"the split train ({len(train)} rows)"
    note = f"{data.root}: the pool is what {origin} has beside the labelled: {len(pool)} images"
    return Found(parts=found, notes=[note])


def hub_splits(root: str) -> dict[str, datasets.Dataset]:
    path = Path(root).expanduser()
    if path.is_absolute() and not path.is_dir():
        raise DataError(f"data.root is {root!r}, but there is no such folder")
    try:
        if (path / "state.json").is_file():
            return {"train": datasets.load_from_disk(str(path))}
        if (path / "dataset_dict.json").is_file():
            return datasets.load_from_disk(str(path))
        return datasets.load_dataset(str(path) if path.is_dir() else root)
    except (OSError, RuntimeError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"data.root is {root!r}, and that dataset cannot be loaded: {error}; give the id of a Hub dataset that can"
            " be reached from here, or a folder with a dataset"
        ) from None


def hub_table(data: Data, splits: dict[str, datasets.Dataset], split: str, part: str) -> datasets.Dataset:
    """One split with the columns image, mask (not for the pool) and id, nothing decoded."""
    if split not in splits:
        raise DataError(
            f"{data.root} has no split {split or 'validation'!r} for data.{part}; it has {some(list(splits))}"
        )
    table, columns = splits[split], {}
    for name, known in (("image", IMAGE_COLUMNS), ("mask", MASK_COLUMNS if part != "unlabeled" else ())):
        column = next((each for each in known if each in table.column_names), None)
        if column:
            columns[name] = column
        elif known:
            raise DataError(
                f"{data.root}, split {split!r}, has no {name} column; it has {some(table.column_names)}, and one of"
                f" {', '.join(known)} is needed"
            )
    naming = next((each for each in ID_COLUMNS if each in table.column_names), None)
    ids = [str(name) for name in table[naming]] if naming else [str(index) for index in range(len(table))]
    if not ids:
        raise DataError(f"{data.root}, split {split!r}, is empty")
    table = table.select_columns(list(columns.values())).rename_columns({old: new for new, old in columns.items()})
    return undecoded(table.add_column("id", ids))


def hub_choice(key: str, value: str, table: datasets.Dataset) -> list[int]:
    """The rows meant by 'first:92', by a list file of ids, or by one of row numbers."""
    count = value.removeprefix("first:")
    if not value:
        raise DataError(f"{key} is empty; write {key}=first:92 for the first rows, or name a list file of rows")
    if count.isdecimal():
        if not 0 < int(count) <= len(table):
            raise DataError(f"{key} is {value!r}, but the split train has {len(table)} rows")
        return list(range(int(count)))
    path = existing(key, value, Path.cwd())
    lines = [line.strip() for line in read_lines(path) if line.strip()]
    if not lines:
        raise DataError(f"{key}: the list {path} is empty")
    places = {name: index for index, name in enumerate(table["id"])}
    if lines[0] not in places:
        places = {str(index): index for index in range(len(table))}
    lost = [line for line in lines if line not in places]
    if lost or len(set(lines)) < len(lines):
        what = f"names {lost[0]}, which is no row of the split train" if lost else "names a row more than once"
        raise DataError(f"{key}: {path} {what}")
    return sorted(places[line] for line in lines)


# ---- facts ---------------------------------------------------------------------------------------------------------

VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip

CITYSCAPES_CLASSES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain",
    "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)  # fmt: skip

# labelIds 0 to 33; whatever is not among the 19 is ignored
CITYSCAPES_TRAIN_IDS = {str(raw): IGNORE_INDEX for raw in range(34)} | {
    str(raw): train
    for train, raw in enumerate((7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33))
}

COCO_CLASSES = (
    "background", "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat",
    "traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep",
    "cow", "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee",
    "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard",
    "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich",
    "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed",
    "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven",
    "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip

SOURCES: dict[str, Callable[[Data, Sequence[str]], Found]] = {
    "shapes": drawn_scenes,
    "folder": folder,
    "voc": voc,
    "cityscapes": cityscapes,
    "coco": coco,
    "hub": hub,
}
