"""Photos without masks: found, and decoded ahead in order."""

import pytest
from PIL import Image

from s4former.data.layouts import folder_layout
from s4former.evaluation.photo_files import find_photos, unique_names
from s4former.evaluation.photos import read_photos


@pytest.fixture
def folder(tmp_path):
    for index in range(7):
        Image.new("RGB", (8 + index, 6), (index, 0, 0)).save(tmp_path / f"{index}.png")
    (tmp_path / "0.png").write_bytes(b"no picture")
    (tmp_path / "4.png").write_bytes(b"no picture")
    return tmp_path


def test_photos_and_messages_on_unreadable_ones_come_in_order(folder):
    unreadable = []
    read = list(read_photos(find_photos([str(folder)]).items(), unreadable))
    assert [photo.id for photo in read] == ["1", "2", "3", "5", "6"]
    assert [(tuple(photo.image.shape), int(photo.image[0, 0, 0])) for photo in read] == [((3, 6, 8 + i), i) for i in (1, 2, 3, 5, 6)]
    assert ["0.png" in unreadable[0], "4.png" in unreadable[1], len(unreadable)] == [True, True, 2]


def test_masks_beside_their_images_are_no_photos(tmp_path, capsys):
    for place in ("labeled/images", "labeled/masks", "flat", "flat/labels", "masks", "annotations"):
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        Image.new("L" if place.endswith(("/masks", "/labels")) else "RGB", (4, 4)).save(tmp_path / place / "a.png")
    # masks/ and annotations/ alone may be names like any other
    assert list(find_photos([str(tmp_path)])) == ["annotations/a", "flat/a", "labeled/images/a", "masks/a"]
    assert f"2 files of {tmp_path} are taken for masks and left out, the first: {tmp_path}/flat/labels/a.png" in capsys.readouterr().err
    assert list(find_photos([str(tmp_path / "labeled" / "masks")])) == ["a"]  # asked for by name


TREES = {
    "Cityscapes": ("leftImg8bit/val/ulm/ulm_1_2_leftImg8bit.png", "gtFine/val/ulm/ulm_1_2_gtFine_labelIds.png gtFine/val/ulm/ulm_1_2_gtFine_color.png"),
    "VOC": ("JPEGImages/a.jpg JPEGImages/b.jpg", "SegmentationClass/a.png SegmentationObject/a.png SegmentationClassVisualization/a.jpg"),
    "two folders": ("images/train/a.jpg images/val/b.jpg", "masks/train/a.png masks/val/b.png"),
    "in one folder": ("a.jpg b.jpg c.jpg", "a_mask.jpg b_mask.jpg b_mask.png"),
    "SegNet": ("train/a.png test/b.png", "trainannot/a.png testannot/b.png"),
    "products": ("labels/1.jpg bottles/1.jpg seg.jpg x_P.jpg x.jpg", ""),
}


@pytest.mark.parametrize("tree", TREES)
def test_masks_of_a_whole_tree_are_neither_photos_nor_the_pool(tree, tmp_path):
    photos, masks = (each.split() for each in TREES[tree])
    for name in (*photos, *masks):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L" if name in masks else "RGB", (4, 4)).save(tmp_path / "set" / name)
    assert sorted(photo["path"] for photo in find_photos([str(tmp_path / "set")]).values()) == sorted(str(tmp_path / "set" / name) for name in photos)
    assert {*folder_layout(tmp_path, tmp_path / "set").images.values()} <= {str(tmp_path / "set" / name) for name in photos}


def test_what_was_predicted_before_is_no_photo(tmp_path):
    for name in ("a.jpg", "out/b.jpg", "out/overlays/a.jpg", "out/sheet.png", "out/label_ids/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    assert list(find_photos([str(tmp_path)], str(tmp_path / "out"))) == ["a", "out/b"]
    assert len(find_photos([str(tmp_path)])) == 5


def test_no_photo_takes_the_name_of_another(tmp_path):
    for name in ("a/b.jpg", "a__b.jpg", "x.jpg", "x.png", "x.jpg.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    photos = find_photos([str(tmp_path)])
    assert list(photos) == ["a/b", "a__b", "x.jpg", "x.jpg.png", "x.png"]
    assert unique_names(photos) == {"a/b": "a__b", "a__b": "a__b-2", "x.jpg": "x.jpg", "x.jpg.png": "x.jpg.png", "x.png": "x.png"}
    assert [*unique_names(["a__b-2", "a__b", "a/b"]).values()] == ["a__b-2", "a__b", "a__b-3"]


def test_hidden_files_are_no_photos(tmp_path):
    for name in ("a.png", "._a.png", ".ipynb_checkpoints/a-checkpoint.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    assert list(find_photos([str(tmp_path)])) == ["a"]
