"""Every source becomes three tables; what is wrong is reported in one sentence."""

import json
from pathlib import Path

import numpy as np
import pytest
from folders import HEIGHT, WIDTH, data, encoded, error_message, ids, make_folder, save_mask, write

from s4former import config
from s4former.config import Data
from s4former.data.images import read_image
from s4former.data.masks import read_pair
from s4former.data.sources import SOURCES, check_masks, load_sources


@pytest.fixture
def root(tmp_path):
    return make_folder(tmp_path)


def test_a_folder_with_lists_becomes_three_tables_sorted_by_id(root):
    found = load_sources(data(root))
    assert found.labeled["id"][:] == ["a", "b"] and found.validation["id"][:] == ["f"]
    assert found.labeled[0] == {"image": encoded(root / "images/a.jpg"), "id": "a", "mask": encoded(root / "masks/a.png")}
    assert found.classes == ("ground", "leaf", "bud") and found.notes == ()


def test_the_pool_has_no_masks_and_never_opens_one(root, monkeypatch):
    write(root / "pool.txt", "images/a.jpg masks/a.png", "images/c.jpg masks/c.png", "d")
    write(root / "labeled.txt", "b")
    (root / "masks" / "c.png").write_bytes(b"a mask that nobody may open")
    seen = []
    read_bytes = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: seen.append(path.name) or read_bytes(path))
    found = load_sources(data(root, unlabeled="pool.txt"))
    check_masks(found, data(root))
    assert found.unlabeled.column_names == ["image", "id"] and found.unlabeled["id"][:] == ["a", "c", "d"]
    assert [read_image(row["image"]).size for row in found.unlabeled] == [(WIDTH, HEIGHT)] * 3
    assert sorted(seen) == ["a.jpg", "b.png", "c.jpg", "d.jpg", "f.png"]


def test_evaluation_alone_needs_no_training_lists(root):
    found = load_sources(data(root, labeled="", unlabeled="gone.txt"), training=False)
    assert (len(found.labeled), len(found.unlabeled), len(found.validation)) == (0, 0, 1)


def test_class_names_come_from_a_list_or_a_mapping_or_classes_json(root):
    (root / "names.json").write_text(json.dumps({"0": "sky", "1": "road", "2": "car"}))
    assert load_sources(data(root, classes=(), classes_file="names.json")).classes == ("sky", "road", "car")
    (root / "classes.json").write_text(json.dumps(["x", "y"]))
    assert load_sources(data(root, classes=())).classes == ("x", "y")


def test_an_empty_root_is_refused():
    expected = "data.root is empty; write data.root=... with the folder that holds the data"
    assert error_message(load_sources, data("")) == expected


@pytest.mark.parametrize("part", ["labeled", "unlabeled"])
def test_training_images_among_the_evaluation_images_are_refused(root, part):
    write(root / "both.txt", "b", "f")
    message = error_message(load_sources, data(root, **{part: "both.txt"}))
    assert message == (
        f"data.{part} has 1 image of data.validation, the first: f; an image is either trained on or evaluated on"
    )


def test_data_without_class_names_are_refused(root):
    assert error_message(load_sources, data(root, classes=())) == (
        'no class names: write data.classes=["name of id 0", "name of id 1", ...], or give a JSON file with'
        f" data.classes_file=..., or put it at {root}/classes.json"
    )


def test_class_names_that_cannot_be_are_refused(root):
    assert error_message(load_sources, data(root, classes=("one",))) == (
        "the class names of data.classes must be 2 to 255 different ones: 1 name"
    )
    assert error_message(load_sources, data(root, classes=("leaf", "leaf"))) == (
        "the class names of data.classes must be 2 to 255 different ones: 'leaf' is there twice"
    )
    (root / "classes.json").write_text('{"1": "sky", "2": "road"}')
    assert error_message(load_sources, data(root, classes=())) == (
        f'{root}/classes.json has no class names; write a list, ["sky", "road"], or {{"0": "sky", "1": "road"}}'
    )


def test_check_masks_opens_every_labelled_mask_and_a_sample_of_the_others(root):
    save_mask(root / "masks" / "b.png", ids(HEIGHT, WIDTH + 1))
    found = load_sources(data(root))
    assert error_message(check_masks, found, data(root), 1) == (
        f"image {root}/images/b.jpg is 24x16 and its mask {root}/masks/b.png is 25x16 (width x height); both must have"
        " the same size"
    )


def test_evaluation_masks_are_all_opened_before_it_is_said_that_none_has_a_label(root):
    write(root / "test.txt", "d", "e", "f")
    nothing = np.full((HEIGHT, WIDTH), 255, np.uint8)
    for name in "def":
        save_mask(root / "masks" / f"{name}.png", nothing)
    found = load_sources(data(root))
    assert error_message(check_masks, found, data(root), 1).startswith("no evaluation image has a labelled pixel; check data.validation")
    save_mask(root / "masks" / "f.png")
    check_masks(found, data(root), 1)


def test_check_masks_names_the_classes_without_a_labelled_pixel(root):
    changed = data(root, classes=("ground", "leaf", "bud", "bee"))
    assert check_masks(load_sources(changed), changed) == ("no labelled pixel shows bee",)


def test_masks_of_0_and_255_are_refused_because_255_is_ignored(root):
    for name in "ab":
        save_mask(root / "masks" / f"{name}.png", np.where(ids() == 1, 255, 0).astype(np.uint8), palette=False)
    found = load_sources(data(root))
    assert error_message(check_masks, found, data(root)) == (
        "the labelled masks show nothing but class 0 and ignored pixels; if 255 means a class there, write"
        ' data.id_map={"255": 1}'
    )
    assert check_masks(found, data(root, id_map={"255": 1})) == ("no labelled pixel shows bud",)


def test_binary_masks_of_which_some_have_1_and_others_255_are_noted(root):
    for name, value in (("a", 1), ("b", 255)):
        save_mask(root / "masks" / f"{name}.png", np.where(ids() == 1, value, 0).astype(np.uint8), palette=False)
    changed = data(root, classes=("ground", "leaf"))
    save_mask(root / "masks" / "f.png", np.where(ids() == 1, 1, 0).astype(np.uint8), palette=False)
    found = load_sources(changed)
    assert check_masks(found, changed) == (
        "1 mask with the id 1, 1 others with 255, none with both: if both are leaf, write"
        ' data.id_map={"255": 1} data.ignore_index=254',
    )
    assert check_masks(found, data(root, classes=("ground", "leaf"), id_map={"255": 1}, ignore_index=254)) == ()


def test_the_drawn_world_has_rows_and_no_files():
    world = config.Shapes(labeled=3, unlabeled=4, validation=2, height=32, width=48, seed=5)
    drawn = Data(source="shapes", shapes=world)
    found = load_sources(drawn)
    assert [row["image"]["path"] for row in found.labeled] == [f"shapes:5:{i}:32x48" for i in range(3)]
    assert found.unlabeled["id"][:] == ["0000003", "0000004", "0000005", "0000006"]
    assert found.unlabeled.column_names == ["image", "id"]
    assert found.validation["id"][:] == ["1000000", "1000001"]
    image, mask = read_pair(found.labeled[0], drawn, len(found.classes))
    assert (image.mode, image.size, mask.shape, mask.dtype) == ("RGB", (48, 32), (32, 48), np.uint8)
    assert check_masks(found, drawn) == ()


def test_every_source_of_the_config_is_a_function():
    assert set(SOURCES) == set(config.Data.__dataclass_fields__["source"].type.__args__)
