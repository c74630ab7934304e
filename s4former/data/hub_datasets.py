"""Datasets of the Hub, or in a folder that `datasets` can load: their splits and columns become our tables."""

from pathlib import Path
from typing import Any, Iterable, Sequence

import datasets
import pyarrow.compute as pc
from huggingface_hub import constants
from huggingface_hub.errors import HTTPError

from ..config import Data
from ..errors import DataError, join_first, plural
from ..networks.hub import HUB_ERRORS, check_answers, describe_hub_error, set_request_timeout
from .lists import find_path, list_lines

COLUMNS = {  # usual names, the first that is there is taken
    "image": ("image", "img", "pixel_values"),
    "mask": ("mask", "label", "annotation", "segmentation", "segmentation_mask", "semantic_segmentation", "labels"),
}
ID_COLUMNS = ("id", "image_id", "file_name", "filename", "name")


def hub(data: Data, parts: Sequence[str], notes: list[str]) -> dict[str, datasets.Dataset]:
    """A dataset of the Hub, or a folder with one: the splits train and validation, columns for image and mask."""
    splits = load_splits(data.root)
    validation = data.validation or next((name for name in ("validation", "val", "test") if name in splits), "")
    found = {"validation": split_table(data, splits, validation, "validation")}
    if "labeled" not in parts:
        return found
    if validation == "train":
        raise DataError("data.validation is the split 'train', of which the labels are taken; choose another split to evaluate on")
    train = split_table(data, splits, "train", "labeled")
    chosen = select_rows("data.labeled", data.labeled, train)
    found["labeled"] = train.select(chosen)
    refuse_missing(data, "train", found["labeled"], "mask")
    if data.unlabeled in splits and data.unlabeled != "train":
        if data.unlabeled == validation:
            raise DataError(f"data.unlabeled and the evaluation are both the split {validation!r}; choose another")
        origin = f"the split {data.unlabeled}"
        found["unlabeled"] = split_table(data, splits, data.unlabeled, "unlabeled")
    else:
        rest = range(len(train)) if data.unlabeled in ("", "train") else select_rows("data.unlabeled", data.unlabeled, train)
        found["unlabeled"] = train.select(sorted(set(rest) - set(chosen))).remove_columns("mask")
        origin = f"what the split train ({len(train)} rows) has beside the labelled"
    notes.append(f"{data.root}: the pool is {origin}: {len(found['unlabeled'])} images")
    return found


def load_splits(root: str) -> dict[str, datasets.Dataset]:
    """The splits by name, loaded from a folder or the Hub."""
    path, unreachable = Path(root).expanduser(), None
    set_request_timeout()
    if not path.is_dir():
        try:
            check_answers(constants.ENDPOINT)  # datasets tries again for a minute where none is reached
        except HTTPError as error:
            unreachable, datasets.config.HF_HUB_OFFLINE = error, True  # what was downloaded before can be used
    try:
        if (path / "state.json").is_file():
            return {"train": datasets.load_from_disk(str(path))}
        if (path / "dataset_dict.json").is_file():
            return datasets.load_from_disk(str(path))
        return datasets.load_dataset(str(path) if path.is_dir() else root)
    except (*HUB_ERRORS, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"data.root is {root!r}, and that dataset cannot be loaded: {describe_hub_error(unreachable or error)};"
            " give the id of a Hub dataset that can be reached from here, or a folder with a dataset"
        ) from None


def split_table(data: Data, splits: dict[str, datasets.Dataset], split: str, part: str) -> datasets.Dataset:
    """One split with the columns image, mask (not for the pool) and id."""
    if split not in splits:
        there = join_first(list(splits))
        raise DataError(f"{data.root} has no split {split or 'validation'!r} for data.{part}; it has {there}")
    table, columns = splits[split], {}  # columns: theirs -> ours
    if not len(table):
        raise DataError(f"{data.root}, split {split!r}, is empty")
    for kind in ("image", "mask") if part != "unlabeled" else ("image",):
        columns[find_column(data, table, split, kind, list(columns))] = kind
    # a column of ids is one of plain values in which none is there twice
    plain = [each for each in ID_COLUMNS if isinstance(table.features.get(each), datasets.Value)]
    ids_in = next((each for each in plain if len(set(table[each])) == len(table)), None)
    ids = [str(name) for name in (table[ids_in] if ids_in else range(len(table)))]
    check_file_paths(data.root, table, columns)
    for column, kind in columns.items():
        if kind == "image" or part == "validation":
            refuse_missing(data, split, table, column)
    return table.select_columns(list(columns)).rename_columns(columns).add_column("id", ids)


def refuse_missing(data: Data, split: str, table: datasets.Dataset, column: str) -> None:
    """`DataError` if rows of a table have nothing in a column of images or masks."""
    values = table.with_format("arrow")[column][:]
    if values.null_count:
        raise DataError(
            f"{plural(values.null_count, 'row')} of {data.root}, split {split!r}, without {column}, the first: row"
            f" {values.is_null().index(True).as_py()} of those that are used; take them out of the dataset, or name"
            " other rows in data.labeled"
        )


def find_column(data: Data, table: datasets.Dataset, split: str, kind: str, taken: Sequence[str]) -> str:
    """The column of images or masks: the key for it, else the only one that holds images, or that of a usual name."""
    key, where = f"data.{kind}_column", f"{data.root}, split {split!r},"
    if chosen := getattr(data, f"{kind}_column"):
        if chosen not in table.column_names:
            raise DataError(f"{key} is {chosen!r}, but {where} has {join_first(table.column_names)}")
        return chosen
    reserved = {*taken, *COLUMNS["mask" if kind == "image" else "image"], data.image_column, data.mask_column}
    pictures = [name for name, feature in table.features.items() if holds_images(feature) and name not in reserved]
    found = [name for name in COLUMNS[kind] if name in pictures] or pictures
    if not found or len(found) > 1 and found[0] not in COLUMNS[kind]:
        there = join_first([f"{name} ({type(feature).__name__})" for name, feature in table.features.items()])
        count = "several columns" if found else "no column"
        raise DataError(f"{where} has {count} that may hold the {kind}s; it has {there}; name the one with {key}=...")
    return found[0]


def holds_images(feature: Any) -> bool:
    """Whether a column's type is that of images, or of their bytes."""
    struct = isinstance(feature, dict) and "bytes" in feature
    return struct or isinstance(feature, datasets.Image) or feature == datasets.Value("binary")


def check_file_paths(root: str, table: datasets.Dataset, columns: Iterable[str]) -> None:
    """Refuses images that are files of this machine outside of the dataset and of what was downloaded for it."""
    places = (root, datasets.config.HF_DATASETS_CACHE, constants.HF_HUB_CACHE)
    places = [Path(place).expanduser().resolve() for place in places]
    for column in columns:
        images = table.with_format("arrow")[column][:].combine_chunks()
        if not hasattr(images, "field"):
            continue  # not of the type Image; reading it reports that
        files = images.filter(pc.is_null(pc.struct_field(images, "bytes")))
        paths = {Path(path).parent: path for path in pc.struct_field(files, "path").to_pylist() if path is not None}
        for folder, path in paths.items():
            if not any(folder.resolve().is_relative_to(place) for place in places):
                raise DataError(
                    f"data.root is {root!r}, and its column {column} names {path}, a file outside of the dataset; no dataset"
                    " may name other files of this machine: take one that holds its images (save_to_disk puts them in)"
                )


def select_rows(key: str, value: str, table: datasets.Dataset) -> list[int]:
    """The rows meant by 'first:92', by a list file of ids, or by one of row numbers."""
    if not value:
        raise DataError(f"{key} is empty; write {key}=first:92 for the first rows, or name a list file of rows")
    if (count := value.removeprefix("first:")).isdecimal():
        if not 0 < int(count) <= len(table):
            raise DataError(f"{key} is {value!r}, but the split train has {len(table)} rows")
        return list(range(int(count)))
    path = find_path(key, value, Path.cwd())
    lines = list_lines(path)
    places = {name: index for index, name in enumerate(table["id"])}
    if not places.keys() & lines:
        places = {str(index): index for index in range(len(table))}
    lost = [line for line in lines if line not in places]
    if lost or not lines or len(set(lines)) < len(lines):
        what = f"names {lost[0]}, which is no row of the split train" if lost else "is empty, or names a row twice"
        called = f"they are called {table['id'][0]} to {table['id'][-1]}; a column of ids has none twice"
        raise DataError(f"{key}: {path} {what} ({called})")
    return sorted(places[line] for line in lines)
