"""A folder of one's own, VOC, Cityscapes and COCO become the same three tables."""

import numpy as np
import pytest
from folders import HEIGHT, WIDTH, data, error_message, make_folder, save_image, save_mask, write

from s4former.config import Data
from s4former.data.masks import read_mask, read_pair
from s4former.data.sources import load_sources


@pytest.fixture
def root(tmp_path):
    return make_folder(tmp_path)


# ---- a folder of one's own


def test_an_empty_unlabeled_key_means_every_other_image(root):
    assert load_sources(data(root)).unlabeled["id"][:] == ["c", "d", "e"]


def test_subfolders_may_stand_for_lists(tmp_path):
    for part, name in (("labeled", "a"), ("val", "a")):
        save_image(tmp_path / part / "images" / f"{name}.jpg")
        save_mask(tmp_path / part / "masks" / f"{name}.png")
    save_image(tmp_path / "unlabeled" / "u.jpg")
    found = load_sources(data(tmp_path, labeled="labeled", unlabeled="unlabeled", validation="val"))
    assert [found.labeled["id"][:], found.unlabeled["id"][:], found.validation["id"][:]] == [["a"], ["u"], ["a"]]


def test_a_key_that_is_needed_and_empty_is_refused(root):
    assert error_message(load_sources, data(root, labeled="")) == (
        f"data.labeled is empty; write data.labeled=... with a list file or a subfolder of {root}"
    )


# ---- known trees


@pytest.fixture
def devkit(tmp_path):
    root = tmp_path / "VOCdevkit" / "VOC2012"
    for name in ("2007_000001", "2007_000002", "2008_000003", "2009_000004"):
        save_image(root / "JPEGImages" / f"{name}.jpg")
        save_mask(root / "SegmentationClassAug" / f"{name}.png", palette=False)
    for name in ("2007_000001", "2009_000004"):
        save_mask(root / "SegmentationClass" / f"{name}.png")
    write(root / "ImageSets/Segmentation/train.txt", "2007_000001", "2007_000002")
    write(root / "ImageSets/Segmentation/val.txt", "2009_000004")
    return root


def test_voc_prefers_the_original_mask_and_fills_in_the_augmented_one(devkit, tmp_path):
    line = "/JPEGImages/2007_000002.jpg /SegmentationClassAug/2007_000002.png"
    write(tmp_path / "2.txt", "2007_000001", line)
    for root in (devkit, devkit.parent, tmp_path):
        found = load_sources(Data(source="voc", root=str(root), labeled=str(tmp_path / "2.txt")))
        masks = [row["mask"]["path"].split("/")[-2] for row in found.labeled]
        assert masks == ["SegmentationClass", "SegmentationClassAug"] and len(found.classes) == 21


def test_the_voc_pool_is_the_list_given_or_the_training_lists_minus_the_labelled(devkit, tmp_path):
    write(tmp_path / "1.txt", "2007_000001")
    write(tmp_path / "train_aug.txt", "2007_000001", "2007_000002", "2008_000003")
    values = {"source": "voc", "root": str(devkit), "labeled": str(tmp_path / "1.txt")}
    found = load_sources(Data(**values))
    assert found.unlabeled["id"][:] == ["2007_000002"] and found.validation["id"][:] == ["2009_000004"]
    assert found.notes == (f"data.unlabeled is empty: the pool is train.txt of {devkit}/ImageSets/Segmentation",)
    found = load_sources(Data(**values, unlabeled=str(tmp_path / "train_aug.txt")))
    assert found.unlabeled["id"][:] == ["2007_000002", "2008_000003"]
    assert found.notes == ("taken out of the pool: 1 labelled image of data.unlabeled",)


def test_a_voc_list_that_needs_the_augmented_masks_says_where_they_were_sought(devkit, tmp_path):
    (devkit / "SegmentationClassAug" / "2007_000002.png").unlink()
    write(tmp_path / "2.txt", "2007_000001", "2007_000002")
    assert error_message(load_sources, Data(source="voc", root=str(devkit), labeled=str(tmp_path / "2.txt"))) == (
        f"data.labeled: 1 image of {tmp_path}/2.txt without a mask in SegmentationClass or SegmentationClassAug (of SBD:"
        f" s4former prepare voc --sbd) of {devkit}, the first: 2007_000002; a mask has the name of its image and one of the"
        " endings .png, .tif, .tiff, .bmp, .gif"
    )


def test_a_folder_that_is_no_voc_tree_is_refused(tmp_path):
    places = " or ".join(f"{tmp_path}{below}" for below in ("", "/VOC2012", "/VOCdevkit/VOC2012"))
    message = error_message(load_sources, Data(source="voc", root=str(tmp_path), labeled="x"))
    assert message == f"there is no folder JPEGImages in {places}"


def test_cityscapes_ids_are_mapped_to_the_19_train_ids(tmp_path):
    names = {"train": ("jena_000001_000019", "ulm_000002_000019"), "val": ("lindau_000003_000019",)}
    for half, stems in names.items():
        for stem in stems:
            city = stem.split("_")[0]
            save_image(tmp_path / "leftImg8bit" / half / city / f"{stem}_leftImg8bit.png")
            raw = np.array([[0, 7, 8, 33, 26, 4]] * HEIGHT, np.uint8).repeat(4, axis=1)
            save_mask(tmp_path / "gtFine" / half / city / f"{stem}_gtFine_labelIds.png", raw, palette=False)
            save_image(tmp_path / "gtFine" / half / city / f"{stem}_gtFine_color.png")
    stem = "train/jena/jena_000001_000019"
    line = f"leftImg8bit/{stem}_leftImg8bit.png gtFine/{stem}_gtFine_labelTrainIds.png"
    for each in ("jena_000001_000019", line):
        write(tmp_path / "1.txt", each)
        changed = Data(source="cityscapes", root=str(tmp_path), labeled="1.txt")
        found = load_sources(changed)
        assert found.labeled["id"][:] == ["jena_000001_000019"] and found.unlabeled["id"][:] == ["ulm_000002_000019"]
        assert found.validation["id"][:] == ["lindau_000003_000019"] and len(found.classes) == 19
        assert read_pair(found.labeled[0], changed, 19)[1][0, ::4].tolist() == [255, 0, 1, 18, 13, 255]
    made = tmp_path / "gtFine/train/jena/jena_000001_000019_gtFine_labelTrainIds.png"
    save_mask(made, np.array([[255, 0, 1, 18, 13, 7]] * HEIGHT, np.uint8).repeat(4, axis=1), palette=False)
    found = load_sources(changed)
    assert read_pair(found.labeled[0], changed, 19)[1][0, ::4].tolist() == [255, 0, 1, 18, 13, 7]


def test_coco_has_81_classes_and_its_two_image_folders(tmp_path):
    for half, name in (("train", "000000000001"), ("train", "000000000002"), ("val", "000000000003")):
        save_image(tmp_path / f"{half}2017" / f"{name}.jpg")
        save_mask(tmp_path / "masks" / f"{half}2017" / f"{name}.png", np.full((HEIGHT, WIDTH), 80, np.uint8))
    write(tmp_path / "1_512.txt", "000000000001")
    found = load_sources(Data(source="coco", root=str(tmp_path), labeled="1_512"))
    assert (found.unlabeled["id"][:], found.validation["id"][:]) == (["000000000002"], ["000000000003"])
    assert len(found.classes) == 81 and found.classes[1] == "person" and found.classes[80] == "toothbrush"
    assert read_mask(found.labeled[0]["mask"], Data(), 81).max() == 80
