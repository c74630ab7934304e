"""A dataset of the Hub, or in a folder, becomes the same three tables."""

import json
import socket
import time
from dataclasses import replace

import datasets
import numpy as np
import pytest
from folders import HEIGHT, PALETTE, WIDTH, error_message, ids, save_image, save_mask, write
from huggingface_hub import close_session, constants
from PIL import Image

from s4former.config import Data
from s4former.data.masks import read_pair
from s4former.data.sources import check_masks, load_sources
from s4former.networks import hub


def table(count, masks=True):
    images = [np.full((HEIGHT, WIDTH, 3), 20 * i, np.uint8) for i in range(count)]
    columns = {"image": [Image.fromarray(image) for image in images]}
    if masks:
        picture = Image.fromarray(ids())
        picture.putpalette(PALETTE)
        columns["annotation"] = [picture] * count
    made = datasets.Dataset.from_dict(columns)
    return made.cast_column("image", datasets.Image())


@pytest.fixture
def saved(tmp_path):
    datasets.disable_progress_bars()
    datasets.DatasetDict({"train": table(5), "validation": table(2)}).save_to_disk(str(tmp_path / "saved"))
    datasets.enable_progress_bars()
    return tmp_path / "saved"


def test_a_dataset_on_disk_gives_the_first_rows_as_labelled_and_the_rest_as_pool(saved):
    changed = Data(source="hub", root=str(saved), labeled="first:2", classes=("a", "b", "c"))
    found = load_sources(changed)
    assert (found.labeled["id"][:], found.unlabeled["id"][:]) == (["0", "1"], ["2", "3", "4"])
    assert found.unlabeled.column_names == ["image", "id"] and len(found.validation) == 2
    assert found.notes == (
        f"{saved}: the pool is what the split train (5 rows) has beside the labelled: 3 images",
    )
    image, mask = read_pair(found.labeled[1], changed, 3)
    assert np.asarray(image).max() == 20 and np.array_equal(mask, ids())
    assert check_masks(found, changed) == ()


def test_the_split_train_as_the_pool_leaves_the_labelled_rows_out(saved):
    found = load_sources(Data(source="hub", root=str(saved), labeled="first:2", unlabeled="train", classes=("a", "b", "c")))
    assert found.unlabeled["id"][:] == ["2", "3", "4"]


def test_a_column_of_lists_gives_no_ids(tmp_path):
    named = table(3).add_column("name", [["a", "b"], ["c"], ["d"]])
    datasets.DatasetDict({"train": named, "validation": named}).save_to_disk(str(tmp_path / "lists"))
    found = load_sources(Data(source="hub", root=str(tmp_path / "lists"), labeled="first:1", classes=("a", "b", "c")))
    assert found.unlabeled["id"][:] == ["1", "2"]


def test_labelled_rows_may_be_listed(saved, tmp_path):
    write(tmp_path / "rows.txt", "3", "1")
    changed = Data(source="hub", root=str(saved), labeled=str(tmp_path / "rows.txt"), classes=("a", "b", "c"))
    found = load_sources(changed)
    assert (found.labeled["id"][:], found.unlabeled["id"][:]) == (["1", "3"], ["0", "2", "4"])
    write(tmp_path / "rows.txt", "3", "5")
    assert error_message(load_sources, changed) == (
        f"data.labeled: {tmp_path}/rows.txt names 5, which is no row of the split train (they are called 0 to 4; a column of ids has none twice)"
    )


def test_more_labelled_rows_than_there_are_is_refused(saved):
    changed = Data(source="hub", root=str(saved), labeled="first:6", classes=("a", "b"))
    assert error_message(load_sources, changed) == "data.labeled is 'first:6', but the split train has 5 rows"


def test_a_dataset_without_masks_is_refused(tmp_path):
    datasets.disable_progress_bars()
    datasets.DatasetDict({"train": table(2, masks=False)}).save_to_disk(str(tmp_path / "bare"))
    datasets.enable_progress_bars()
    changed = Data(source="hub", root=str(tmp_path / "bare"), labeled="first:1", validation="train", classes=("a", "b"))
    assert error_message(load_sources, changed) == (
        f"{tmp_path}/bare, split 'train', has no column that may hold the masks; it has image (Image);"
        " name the one with data.mask_column=..."
    )


def test_an_image_folder_with_metadata_is_a_dataset_too(tmp_path):
    for half in ("train", "validation"):
        for name in "ab":
            save_image(tmp_path / "set" / half / f"{name}.png")
            save_mask(tmp_path / "set" / half / f"{name}_mask.png")
        write(
            tmp_path / "set" / half / "metadata.jsonl",
            *(json.dumps({"file_name": f"{name}.png", "mask_file_name": f"{name}_mask.png"}) for name in "ab"),
        )
    changed = Data(source="hub", root=str(tmp_path / "set"), labeled="first:1", classes=("a", "b", "c"))
    found = load_sources(changed)
    assert (len(found.labeled), len(found.unlabeled), len(found.validation)) == (1, 1, 2)
    assert np.array_equal(read_pair(found.labeled[0], changed, 3)[1], ids())


def test_a_hub_that_cannot_be_reached_is_a_sentence():
    message = error_message(load_sources, Data(source="hub", root="nobody/nothing", labeled="first:1", classes=("a", "b")))
    assert message.startswith("data.root is 'nobody/nothing', and that dataset cannot be loaded: ")
    assert message.endswith("; give the id of a Hub dataset that can be reached from here, or a folder with a dataset")


def save_columns(folder, **columns):
    made = table(4, masks=False)
    for name, values in columns.items():
        made = made.add_column(name, values) if not isinstance(values[0], Image.Image) else datasets.Dataset.from_dict(
            {**{each: made[each][:] for each in made.column_names}, name: values}
        ).cast_column("image", datasets.Image())
    datasets.DatasetDict({"train": made, "validation": made}).save_to_disk(str(folder))


def test_columns_go_by_their_type_and_a_key_may_name_them(tmp_path):
    masks = [Image.fromarray(ids())] * 4
    save_columns(tmp_path / "both", label=[0] * 4, annotation=masks)
    changed = Data(source="hub", root=str(tmp_path / "both"), labeled="first:2", classes=("a", "b", "c"))
    assert np.array_equal(read_pair(load_sources(changed).labeled[0], changed, 3)[1], ids())
    save_columns(tmp_path / "two", first=masks, second=masks)
    changed = Data(source="hub", root=str(tmp_path / "two"), labeled="first:2", classes=("a", "b", "c"))
    message = error_message(load_sources, changed)
    assert "has several columns that may hold the masks" in message and "data.mask_column=..." in message
    named = replace(changed, mask_column="second")
    assert np.array_equal(read_pair(load_sources(named).labeled[0], named, 3)[1], ids())


def test_a_column_in_which_names_are_there_twice_is_none_of_ids(tmp_path):
    save_columns(tmp_path / "twice", annotation=[Image.fromarray(ids())] * 4, name=["x", "y", "x", "y"])
    write(tmp_path / "rows.txt", "x")
    changed = Data(source="hub", root=str(tmp_path / "twice"), labeled=str(tmp_path / "rows.txt"), classes=("a", "b", "c"))
    assert "names x, which is no row of the split train (they are called 0 to 3" in error_message(load_sources, changed)


def test_the_split_that_labels_are_taken_of_is_not_evaluated_on(saved):
    data = Data(source="hub", root=str(saved), labeled="first:2", validation="train", classes=("a", "b", "c"))
    assert "data.validation is the split 'train', of which the labels are taken" in error_message(load_sources, data)


@pytest.mark.parametrize("column, row", [("image", 4), ("annotation", 1)])
def test_rows_without_an_image_or_labelled_ones_without_a_mask_are_refused(tmp_path, column, row):
    made = table(5)
    cells = made[column]
    columns = {name: list(made[name]) for name in made.column_names} | {column: [None if n == row else cell for n, cell in enumerate(cells)]}
    features = datasets.Features(dict.fromkeys(columns, datasets.Image()))
    folder = tmp_path / "holes"
    datasets.DatasetDict({"train": datasets.Dataset.from_dict(columns, features=features), "validation": table(2)}).save_to_disk(str(folder))
    data = Data(source="hub", root=str(folder), labeled="first:2", classes=("a", "b", "c"))
    assert f"1 row of {folder}, split 'train', without " in error_message(load_sources, data)
    if column == "annotation":
        write(tmp_path / "rows.txt", "0", "2")
        assert len(load_sources(replace(data, labeled=str(tmp_path / "rows.txt"))).unlabeled) == 3


def test_a_hub_that_does_not_answer_is_told_at_once(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr(hub, "ANSWER_WITHIN", 0.2)
    monkeypatch.setenv("NO_PROXY", "*")
    close_session()  # of before NO_PROXY
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it takes the connection and says nothing
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        message = error_message(load_sources, Data(source="hub", root="someone/leaves", labeled="first:1", classes=("a", "b")))
    assert time.monotonic() - started < 5
    assert message.startswith("data.root is 'someone/leaves', and that dataset cannot be loaded: no connection to http://127.0.0.1")


def test_a_path_that_is_not_there_is_no_question_to_the_hub(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sets" / "leaves").mkdir(parents=True)
    for missing in ("sets/leaf", "./leaf", str(tmp_path / "sets" / "leaf")):
        message = error_message(load_sources, Data(source="hub", root=missing, labeled="first:1", classes=("a", "b")))
        assert message.startswith(f"data.root is {missing!r}, but there is no such folder")
