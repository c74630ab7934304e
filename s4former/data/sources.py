"""From what lies on disk (or on the Hub, or is drawn) to three tables of rows.

A row has an `image`, an `id`, and a `mask` where it is labelled. The unlabelled pool has no mask column: what is not
there cannot leak. A new kind of data is one function and one entry of `SOURCES`.
"""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Sequence

import datasets
import numpy as np

from ..config import IGNORE_INDEX, Data
from ..errors import DataError, join_first, plural
from . import shapes
from .hub_datasets import hub
from .images import header_size
from .layouts import cityscapes, coco, folder, voc
from .lists import Found, Sample, find_path, list_fingerprint
from .masks import check_sizes, read_mask
from .published import identify_list, list_named_by, verify_list

PART_NAMES = {"labeled": "labelled", "unlabeled": "unlabelled", "validation": "evaluation"}  # as readers are told
PARTS = tuple(PART_NAMES)
FEW_IMAGES, FEW_PIXELS = 3, 0.002  # a class in fewer labelled images, or on a smaller share of them, is pointed at
FIRST_VALIDATION_SCENE = 1_000_000  # so that more training scenes never reach the ones for evaluation


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What a run trains and is evaluated on. Tables have columns image, id and, but for the pool, mask."""

    labeled: datasets.Dataset
    unlabeled: datasets.Dataset
    validation: datasets.Dataset
    classes: tuple[str, ...]  # names, id 0 first
    notes: tuple[str, ...]  # lines for the log
    lists: dict[str, dict[str, Any]]  # part -> {"images": count, "sha256": of the sorted ids, one a line}


# ---- all three tables


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
    classes = classes_of(data, found.classes)
    notes = list(found.notes)
    if all(isinstance(rows, list) for rows in found.parts.values()):
        check_claims(data, found.parts)
        notes += separate(data, found.parts)
    tables = {part: table_of(found.parts.get(part, []), masks=part != "unlabeled") for part in PARTS}
    if training and not len(tables["unlabeled"]):
        notes.append("the unlabelled pool is empty: every training image is labelled")
    ids = {part: tables[part]["id"][:] for part in PARTS}
    notes += recognised(ids)
    lists = {part: list_fingerprint(ids[part]) for part in PARTS}
    return Sources(**tables, classes=classes, notes=tuple(notes), lists=lists)


def check_claims(data: Data, parts: dict[str, list[Sample]]) -> None:
    """Refuses a list that has the name of a published one, as voc_blend_cps/662.txt, but other ids."""
    for part, rows in parts.items():
        value = getattr(data, part)
        if data.source in ("voc", "cityscapes", "coco") and value and (name := list_named_by(Path(value))):
            verify_list([row.id for row in rows], name, f"data.{part} is {value!r}")


def separate(data: Data, parts: dict[str, list[Sample]]) -> list[str]:
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


def recognised(ids: dict[str, list[str]]) -> list[str]:
    """'labelled list: voc_classic/92': which of the lists are published ones."""
    named = {
        "labelled list": identify_list(ids["labeled"]),
        "unlabelled list": identify_list(ids["unlabeled"]),
        "unlabelled and labelled list together": identify_list(ids["unlabeled"] + ids["labeled"]),
        "evaluation list": identify_list(ids["validation"]),
    }
    return [f"{what}: {name}" for what, name in named.items() if name]


def table_of(rows: list[Sample] | datasets.Dataset, *, masks: bool) -> datasets.Dataset:
    """A `datasets.Dataset` of rows, sorted by id, so that the order of a list file changes nothing."""
    if isinstance(rows, datasets.Dataset):
        return undecoded(rows)
    rows = sorted(rows, key=lambda row: row.id)
    columns: dict[str, list[Any]] = {"image": [row.image for row in rows], "id": [row.id for row in rows]}
    if masks:
        columns["mask"] = [row.mask for row in rows]
    features = {"image": datasets.Value("string"), "mask": datasets.Value("string"), "id": datasets.Value("string")}
    table = datasets.Dataset.from_dict(columns, features=datasets.Features({k: features[k] for k in columns}))
    return undecoded(table)


def undecoded(table: datasets.Dataset) -> datasets.Dataset:
    """The table with images and masks as cells {"path", "bytes"}, which reading.py opens."""
    for column in ("image", "mask"):
        if column in table.column_names:
            table = table.cast_column(column, datasets.Image(decode=False))
    return table


# ---- the names of the classes


def classes_of(data: Data, known: tuple[str, ...]) -> tuple[str, ...]:
    """`data.classes`, else `data.classes_file`, else those of the source, else classes.json in the data folder."""
    names, origin = data.classes, "data.classes"
    if not names and data.classes_file:
        path = find_path("data.classes_file", data.classes_file, Path(data.root))
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


# ---- the masks, before a run begins


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
    return (f"no labelled pixel shows {join_first(absent)}",) if absent else ()


def checked_mask(row: dict[str, Any], data: Data, num_classes: int) -> np.ndarray:
    """The mask of a row, compared with the size its image states; the image itself is not decoded."""
    mask = read_mask(row["mask"], data, num_classes)
    check_sizes(row, header_size(row["image"]), mask.shape)
    return mask


# ---- the sources


def drawn_scenes(data: Data, parts: Sequence[str]) -> Found:
    """The embedded world: scenes drawn when they are asked for, so there is nothing to download."""
    world = data.shapes
    starts = {"labeled": 0, "unlabeled": world.labeled, "validation": FIRST_VALIDATION_SCENE}
    found: dict[str, list[Sample] | datasets.Dataset] = {}
    for part in parts:
        paths = [
            (index, f"shapes:{world.seed}:{index}:{world.height}x{world.width}")
            for index in range(starts[part], starts[part] + getattr(world, part))
        ]
        found[part] = [Sample(path, path if part != "unlabeled" else None, f"{index:07d}") for index, path in paths]
    return Found(parts=found, classes=tuple(shapes.CLASSES))


SOURCES: dict[str, Callable[[Data, Sequence[str]], Found]] = {
    "shapes": drawn_scenes,
    "folder": folder,
    "voc": voc,
    "cityscapes": cityscapes,
    "coco": coco,
    "hub": hub,
}


def is_rare(images: int, share: float, labeled: int) -> bool:
    """Whether a class that `images` of the `labeled` images show, on a share of all pixels, is likely to be learned badly."""
    return images < min(FEW_IMAGES, labeled) or share < FEW_PIXELS
