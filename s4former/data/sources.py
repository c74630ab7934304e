"""From what lies on disk (or on the Hub, or is drawn) to three tables of rows.

A row has an `image`, an `id`, and a `mask` where it is labelled. The unlabelled pool has no mask column: what is not
there cannot leak. A new kind of data is one function and one entry of `SOURCES`.
"""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Sequence

import numpy as np

from ..config import IGNORE_INDEX, Data
from ..errors import DataError, join_first, plural
from ..files import read_text
from ..networks.hub import is_hub_id
from ..randomness import numpy_generator
from . import shapes
from .class_names import CITYSCAPES_CLASSES, COCO_CLASSES, VOC_CLASSES
from .images import read_header
from .layouts import cityscapes, coco, folder, voc
from .lists import Sample, data_root, find_path, list_fingerprint
from .masks import check_palettes_of, check_sizes, read_mask, read_upright_mask, two_binaries
from .progress import progress
from .published import identify_list, list_named_by, verify_list

if TYPE_CHECKING:  # it takes seconds, which no mistake in a path or list should wait for
    import datasets

PART_NAMES = {"labeled": "labelled", "unlabeled": "unlabelled", "validation": "evaluation"}  # for messages
PARTS = tuple(PART_NAMES)
FEW_IMAGES, FEW_PIXELS = 3, 0.002  # a class in fewer labelled images, or on a smaller share of them, is rare
NO_EVALUATION_LABEL = "no evaluation image has a labelled pixel; check data.validation, data.ignore_index and data.id_map"
FIRST_VALIDATION_SCENE = 1_000_000  # so that more training scenes never reach the ones for evaluation


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What a run trains and is evaluated on. Tables have columns image, id and, but for the pool, mask."""

    labeled: "datasets.Dataset"
    unlabeled: "datasets.Dataset"
    validation: "datasets.Dataset"
    classes: tuple[str, ...]  # names, id 0 first
    notes: tuple[str, ...]  # lines for the log
    lists: dict[str, dict[str, Any]]  # part -> {"images": count, "sha256": of the sorted ids, one a line}


# ---- all three tables


def load_sources(data: Data, *, training: bool = True) -> Sources:
    """The tables of a config, checked as far as that goes without opening an image; `DataError` for the first thing that is wrong.

    training: False reads the evaluation part only; the other two are empty.
    """
    check_root(data)
    notes: list[str] = []
    found = SOURCES[data.source](data, PARTS if training else PARTS[2:], notes)
    classes = class_names(data)
    for part, samples in found.items() if data.source in ("voc", "cityscapes", "coco") else ():
        if name := list_named_by(Path(value := getattr(data, part))):  # voc_blend_cps/662.txt has no other ids
            verify_list([sample.id for sample in samples], name, f"data.{part} is {value!r}")
    if data.source != "hub":
        notes += separate_parts(data, found)
    tables = {part: to_table(found.get(part, []), masks=part != "unlabeled") for part in PARTS}
    if training and not len(tables["unlabeled"]):
        notes.append("the unlabelled pool is empty: every training image is labelled")
    ids = {part: tables[part]["id"][:] for part in PARTS}
    notes += published_notes(ids)
    lists = {part: list_fingerprint(ids[part]) for part in PARTS}
    return Sources(**tables, classes=classes, notes=tuple(notes), lists=lists)


def check_root(data: Data) -> None:
    """`DataError` if data.root is empty, or a folder that is not there."""
    if not data.root and data.source != "shapes":
        what = "the id or the folder of a dataset" if data.source == "hub" else "the folder that holds the data"
        raise DataError(f"data.root is empty; write data.root=... with {what}")
    if data.source != "shapes" and not (data.source == "hub" and is_hub_id(data.root)):
        data_root(data)


def separate_parts(data: Data, parts: dict[str, list[Sample]]) -> list[str]:
    """Takes labelled images out of the pool, with a note, and refuses what is both trained and evaluated on."""
    notes = []
    if "unlabeled" in parts:
        labeled, pool = {sample.image for sample in parts["labeled"]}, parts["unlabeled"]
        parts["unlabeled"] = [sample for sample in pool if sample.image not in labeled]
        if data.unlabeled and (removed := len(pool) - len(parts["unlabeled"])):
            notes = [f"taken out of the pool: {plural(removed, 'labelled image')} of data.unlabeled"]
    held_out = {sample.image for sample in parts["validation"]}
    for part, samples in parts.items():
        both = sorted(sample.id for sample in samples if sample.image in held_out)
        if both and part != "validation":
            raise DataError(
                f"data.{part} has {plural(len(both), 'image')} of data.validation, the first: {both[0]};"
                " an image is either trained on or evaluated on"
            )
    return notes


def published_notes(ids: dict[str, list[str]]) -> list[str]:
    """'labelled list: voc_classic/92': which of the lists are published ones."""
    lists = {
        "labelled list": ids["labeled"],
        "unlabelled list": ids["unlabeled"],
        "unlabelled and labelled list together": ids["unlabeled"] + ids["labeled"],
        "evaluation list": ids["validation"],
    }
    return [f"{what}: {name}" for what, each in lists.items() if (name := identify_list(each))]


def to_table(samples: "list[Sample] | datasets.Dataset", *, masks: bool) -> "datasets.Dataset":
    """A `datasets.Dataset` sorted by id, so that the order of a list file changes nothing; images and masks undecoded."""
    import datasets
    import pyarrow

    columns = ("image", "mask", "id") if masks else ("image", "id")
    table = samples
    if isinstance(samples, list):
        samples = sorted(samples, key=lambda sample: sample.id)
        values = {column: [getattr(sample, column) for sample in samples] for column in columns}
        # from_dict would look at every value in Python
        table = datasets.Dataset(pyarrow.table(values, pyarrow.schema([(column, pyarrow.string()) for column in columns])))
    for column in columns[:-1]:
        table = table.cast_column(column, datasets.Image(decode=False))
    return table


# ---- the names of the classes


def class_names(data: Data) -> tuple[str, ...]:
    """`data.classes`, else `data.classes_file`, else those of the source, else classes.json in the data folder."""
    path = Path(data.root).expanduser() / "classes.json"
    if data.classes:
        names, origin = data.classes, "data.classes"
    elif data.source in CLASSES and not data.classes_file:
        return CLASSES[data.source]
    elif data.classes_file or path.is_file():
        path = find_path("data.classes_file", data.classes_file, path.parent) if data.classes_file else path
        names, origin = read_class_names(path), str(path)
    else:
        raise DataError(
            'no class names: write data.classes=["name of id 0", "name of id 1", ...], or give a JSON file with'
            f" data.classes_file=..., or put it at {path}"
        )
    twice = [repr(name) for name, count in Counter(names).items() if count > 1]
    if not 2 <= len(names) <= IGNORE_INDEX or twice:
        found = f"{twice[0]} is there twice" if twice else plural(len(names), "name")
        raise DataError(f"the class names of {origin} must be 2 to {IGNORE_INDEX} different ones: {found}")
    return tuple(names)


def read_class_names(path: Path) -> tuple[str, ...]:
    """Class names of a JSON file: a list, or a mapping from the ids 0, 1, 2 ..."""
    try:
        names = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is not valid JSON: {error}") from None
    if isinstance(names, dict) and set(names) == {str(i) for i in range(len(names))}:
        names = [names[str(i)] for i in range(len(names))]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f'{path} has no class names; write a list, ["sky", "road"], or {{"0": "sky", "1": "road"}}')
    return tuple(names)


# ---- the masks, before a run begins


def check_masks(sources: Sources, data: Data, limit: int = 100) -> tuple[str, ...]:
    """Opens every labelled mask, and `limit` evaluation masks, before a run begins; returns lines for the log.

    Raises:
        DataError: for the first mask that cannot be used, if indexed masks have palettes that contradict each other, if the labels
            show nothing but class 0, or if no evaluation mask has a label (all of them are opened before that is said).
    """
    if data.source == "shapes":  # exact, and slow to draw
        return ()

    def count_pixels(row: dict[str, Any]) -> np.ndarray:
        mask = read_upright_mask(row, data, len(sources.classes))
        check_sizes(row, read_header(row["image"]).size, mask.shape)  # of an image that is not decoded
        return np.bincount(mask.ravel(), minlength=IGNORE_INDEX + 1)

    check_palettes_of((row["mask"] for table in (sources.labeled, sources.validation) for row in table), data)
    counts = np.array([count_pixels(row) for row in progress(sources.labeled, "labelled masks")])
    pixels = counts.sum(axis=0)
    if not pixels[1:IGNORE_INDEX].any():
        raise DataError(
            "the labelled masks show nothing but class 0"
            + (' and ignored pixels; if 255 means a class there, write data.id_map={"255": 1}' if pixels[-1] else "")
        )
    has_label = False
    order = numpy_generator(0).permutation(len(sources.validation)).tolist()
    for number, index in enumerate(progress(order, "evaluation masks")):
        if number >= limit and has_label:
            break
        has_label |= bool(count_pixels(sources.validation[index])[:IGNORE_INDEX].any())
    if order and not has_label:
        raise DataError(NO_EVALUATION_LABEL)
    absent = [name for name, count in zip(sources.classes, pixels) if not count]
    lines = f"no labelled pixel shows {join_first(absent)}" if absent else "", describe_two_kinds(counts, sources.classes)
    return tuple(filter(None, lines))


def labeled_pixels(sources: Sources, data: Data) -> np.ndarray:
    """(labelled images, 256): how many pixels of each class, at 255 of no label, each mask has."""
    masks = (read_mask(row["mask"], data, len(sources.classes)) for row in sources.labeled)
    return np.array([np.bincount(mask.ravel(), minlength=IGNORE_INDEX + 1) for mask in masks])


def describe_two_kinds(counts: np.ndarray, classes: Sequence[str]) -> str:
    """What to do if some masks of two classes hold 0 and 1, others 0 and no label, which may be a 255 for class 1.

    counts: (images, 256), how many pixels of each class, at 255 of no label, each mask has.
    """
    found = two_binaries([np.flatnonzero(pixels).tolist() for pixels in counts]) if len(classes) == 2 else ""
    return found and f'{found}: if both are {classes[1]}, write data.id_map={{"255": 1}} data.ignore_index=254'


def is_rare(images: int, share: float, labeled: int) -> bool:
    """Whether a class that `images` of the `labeled` images show, on a share of all pixels, is likely to be learned badly."""
    return images < min(FEW_IMAGES, labeled) or share < FEW_PIXELS


# ---- the sources


def drawn_scenes(data: Data, parts: Sequence[str], notes: list[str]) -> dict[str, list[Sample]]:
    """The embedded world: scenes drawn when they are read, so there is nothing to download."""
    world = data.shapes
    starts = {"labeled": 0, "unlabeled": world.labeled, "validation": FIRST_VALIDATION_SCENE}

    def sample(part: str, index: int) -> Sample:
        path = f"shapes:{world.seed}:{index}:{world.height}x{world.width}"
        return Sample(path, path if part != "unlabeled" else None, f"{index:07d}")

    return {part: [sample(part, starts[part] + place) for place in range(getattr(world, part))] for part in parts}


def hub(data: Data, parts: Sequence[str], notes: list[str]) -> "dict[str, datasets.Dataset]":
    """A dataset of the Hub, or a folder with one."""
    from . import hub_datasets

    return hub_datasets.hub(data, parts, notes)


# Each gives the samples, or a ready table, of each of the parts, and appends lines for the log.
SOURCES: "dict[str, Callable[[Data, Sequence[str], list[str]], dict[str, list[Sample] | datasets.Dataset]]]" = {
    "shapes": drawn_scenes, "folder": folder, "voc": voc, "cityscapes": cityscapes, "coco": coco, "hub": hub,
}  # fmt: skip
CLASSES = {"shapes": shapes.CLASSES, "voc": VOC_CLASSES, "cityscapes": CITYSCAPES_CLASSES, "coco": COCO_CLASSES}
