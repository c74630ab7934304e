"""Masks are found by name: with a tag on either side, in two folders or side by side."""

from pathlib import Path

import pytest
from folders import data, save_mask, save_photo, write

from s4former.data.pairing import pair_up, take_masks
from s4former.data.sources import load_sources
from s4former.evaluation.photo_files import find_photos


def files(text):
    return {name: Path(f"{name}.png") for name in text.split()}


@pytest.mark.parametrize(
    "images, masks, pairs",
    [
        ("a b c", "a b", "a:a b:b"),
        ("d/a_image d/b_image", "d/a_label d/b_label d/a_inst_label", "d/a_image:d/a_label d/b_image:d/b_label"),
        ("s/a_leftImg8bit", "s/a_gtFine_color s/a_gtFine_labelIds s/a_gtFine_labelTrainIds", "s/a_leftImg8bit:s/a_gtFine_labelTrainIds"),
        ("01_training 02_training", "01_manual1 02_manual1", "01_training:01_manual1 02_training:02_manual1"),
        ("v_0000 v_0001 v_0002", "v_0000 v_0002", "v_0000:v_0000 v_0002:v_0002"),  # frames, no channels
        ("t/a_0000 t/b_0000", "t/a t/b", "t/a_0000:t/a t/b_0000:t/b"),
        ("a_RGB b_RGB", "a_label b_label", "a_RGB:a_label b_RGB:b_label"),
        ("img_1 img_2", "mask_1 mask_2", "img_1:mask_1 img_2:mask_2"),
        ("x_1 x_2", "x_1_finding x_2_finding", "x_1:x_1_finding x_2:x_2_finding"),  # no known tag, but all have it
        ("ab b", "ab.JPG b", "ab:ab.JPG b:b"),
        ("IMG_A IMG_B", "img_a img_b", "IMG_A:img_a IMG_B:img_b"),
        ("site/a site/b", "a b", "site/a:a site/b:b"),
        ("u/a v/a v/b", "a b", "v/b:b"),  # which a is meant cannot be told
        ("u/a v/b", "u/a w/b", "u/a:u/a"),  # where folders are the same on both sides, they are part of the name
        ("a_jpg.rf.0f1e2d3c4b5a6978", "a", "a_jpg.rf.0f1e2d3c4b5a6978:a"),
        ("0f1e2d3c-leaf", "leaf", "0f1e2d3c-leaf:leaf"),
        ("20210304_1 20210305_2", "20210304_1 20210306_2", "20210304_1:20210304_1"),  # dates are no hashes
        ("s2019_1 s2019_2", "s2020_1 s2020_2", ""),  # a number is no tag
    ],
)
def test_an_image_has_the_mask_of_its_name(images, masks, pairs):
    found = pair_up(files(images), files(masks))
    assert found == {image: Path(f"{mask}.png") for image, mask in (pair.split(":") for pair in pairs.split())}


def test_the_second_image_of_a_stem_has_the_mask_that_is_called_by_its_whole_name():
    assert pair_up(files("a a.png b"), files("a a.png b")) == {name: Path(f"{name}.png") for name in ("a", "a.png", "b")}
    assert list(pair_up(files("a a.png b"), files("a b"))) == ["a", "b"]


def test_another_band_of_an_image_is_no_image():
    images = files("a_RGB a_IRRG b_RGB b_IRRG b_label_2 c_RGB")
    pair_up(images, files("a_label b_label"))
    assert list(images) == ["a_RGB", "b_RGB", "c_RGB"]


@pytest.mark.parametrize(
    "names, photos, pairs",
    [
        ("a a_mask b b_mask c", "a b c", "a:a_mask b:b_mask"),
        ("a_sat a_mask b_sat", "a_sat b_sat", "a_sat:a_mask"),
        ("d/a d/a_L e/a", "d/a e/a", "d/a:d/a_L"),
        ("a a_segmentation a_mask b_segmentation b", "a b", "a:a_segmentation b:b_segmentation"),
        ("a_label b c_mask", "a_label b c_mask", ""),  # the mask of nothing is a photo with a name
    ],
)
def test_masks_beside_their_images_are_taken_out(names, photos, pairs):
    left = files(names)
    found = take_masks(left)
    assert found == {image: Path(f"{mask}.png") for image, mask in (pair.split(":") for pair in pairs.split())}
    assert list(left) == photos.split()


def test_a_jpeg_with_the_name_of_a_mask_is_no_photo_and_goes_after_a_png():
    left = {name: Path(file) for name, file in (("a", "a.jpg"), ("a_mask", "a_mask.jpg"), ("a_mask.png", "a_mask.png"), ("b", "b.jpg"))}
    left |= {"b_mask": Path("b_mask.jpg"), "c_P": Path("c_P.jpg"), "c": Path("c.jpg")}
    assert take_masks(left) == {"a": Path("a_mask.png"), "b": Path("b_mask.jpg")}
    assert list(left) == ["a", "b", "c_P", "c"]


@pytest.fixture
def beside(tmp_path):
    """train/ and pool/ with photos and X_mask.png beside them."""
    for seed, name in enumerate(("train/a", "train/b", "pool/c", "pool/d", "val/e")):
        save_photo(tmp_path / f"{name}.jpg", seed)
        save_mask(tmp_path / f"{name}_mask.png")
    return tmp_path


def test_a_config_by_hand_takes_a_mask_beside_its_image_for_its_mask(beside):
    found = load_sources(data(beside, labeled="train", unlabeled="pool", validation="val"))
    assert [found.labeled["id"][:], found.unlabeled["id"][:], found.validation["id"][:]] == [["a", "b"], ["c", "d"], ["e"]]
    assert found.labeled[0]["mask"]["path"] == str(beside / "train" / "a_mask.png")


@pytest.mark.parametrize("place", ["", "images"])
def test_lists_of_photos_beside_their_masks_leave_no_mask_in_the_pool(beside, place):
    root = beside / "set"
    for path in beside.glob("*/*"):
        (root / place).mkdir(parents=True, exist_ok=True)
        path.rename(root / place / path.name)
    write(root / "labeled.txt", "a", "b.jpg")
    write(root / "test.txt", "e")
    found = load_sources(data(root))
    assert found.unlabeled["id"][:] == ["c", "d"] and found.labeled[1]["mask"]["path"].endswith("b_mask.png")


def test_masks_beside_their_images_are_no_photos_to_predict(beside):
    assert list(find_photos([str(beside)])) == ["pool/c", "pool/d", "train/a", "train/b", "val/e"]
