"""Palettes, overlays and the sheet of predictions."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from s4former.config import Data
from s4former.evaluation.pictures import EMPTY, PANEL, contact_sheet, display_colours, overlay, palette, palette_png

NAMES = ("background", "fish", "boat")


def example(height: int = 16, width: int = 24) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    mask = np.zeros((height, width), np.uint8)
    mask[2:8, 3:9], mask[9:14, 10:20], mask[0] = 1, 2, 255
    return generator.integers(0, 256, (height, width, 3), dtype=np.uint8), mask


def test_the_palette_is_that_of_pascal_voc():
    known = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 4: (0, 0, 128), 8: (64, 0, 0), 15: (192, 128, 128), 20: (0, 64, 128)}
    colours = palette(256)
    assert {i: tuple(colours[i].tolist()) for i in known} == known
    assert tuple(colours[255].tolist()) == (224, 224, 192)
    assert len(np.unique(colours, axis=0)) == 256
    assert np.array_equal(palette(21), colours[:21])


def test_a_palette_png_gives_the_ids_back_and_shows_their_colours(tmp_path):
    mask = example()[1]
    palette_png(mask, tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as image:
        assert image.mode == "P"
        assert np.array_equal(np.asarray(image), mask)
        assert np.array_equal(np.asarray(image.convert("RGB")), palette(256)[mask])


def test_ids_above_255_do_not_fit_into_a_palette_png(tmp_path):
    with pytest.raises(ValueError, match=r"holds an \(H, W\) mask of ids 0 \.\. 255; this one is \(2, 2\) with 0 \.\. 300"):
        palette_png(np.array([[0, 1], [2, 300]]), tmp_path / "mask.png")


def test_an_overlay_shows_the_picture_where_there_is_background_or_no_label():
    image, mask = example()
    grey = np.asarray(Image.fromarray(image).convert("L"))
    shown = np.asarray(overlay(image, mask, class_names=NAMES))
    assert (shown[15, :9] == grey[15, :9, None]).all() and (shown[15, 21:] == grey[15, 21:, None]).all()
    assert (shown[4, 4] != grey[4, 4]).any()
    assert (np.asarray(overlay(image, np.zeros_like(mask), class_names=("road", "sky"))) != grey[..., None]).any()
    solid = np.asarray(overlay(image, mask, 1.0, class_names=NAMES))
    assert np.array_equal(solid[4, 4], display_colours(NAMES)[1])
    with pytest.raises(ValueError, match="they must have one size"):
        overlay(image, mask[1:])


def test_the_colours_of_a_palette_are_those_of_pictures_legends_and_overlays():
    data = Data(palette={"#ff0000": 1, "#00ff00": 2, "#0000ff": 7}, id_map={"7": 0, "9": 255}, ignore_index=9)
    colours = display_colours(("ground", "leaf", "bud", "stem"), data)
    assert colours[:3].tolist() == [[0, 0, 255], [255, 0, 0], [0, 255, 0]]
    assert np.array_equal(colours[3:], display_colours(("ground", "leaf", "bud", "stem"))[3:])  # without a colour of their own
    shown = display_colours(("ground", "leaf", "bud", "stem"), replace(data, colours=("", "#010203")))
    assert shown[:3].tolist() == [[0, 0, 255], [1, 2, 3], [0, 255, 0]]
    mask = np.ones((4, 4), np.uint8)
    solid = np.asarray(overlay(np.zeros((4, 4, 3), np.uint8), mask, 1.0, class_names=("ground", "leaf", "bud"), data=data))
    assert (solid == (255, 0, 0)).all()
    sheet = contact_sheet([(np.zeros((9, 9, 3), np.uint8), mask)], ("image", "truth"), ("ground", "leaf", "bud"), "", data)
    assert (np.asarray(sheet).reshape(-1, 3) == (255, 0, 0)).all(axis=1).sum() > 4 * PANEL[1]


def test_display_colours_of_the_first_classes_are_far_apart():
    colours = display_colours(NAMES)[:22].astype(int)
    distance = np.abs(colours[:, None] - colours[None]).max(axis=-1) + 255 * np.eye(22, dtype=int)
    assert distance.min() > 20


def test_the_sheet_holds_every_row_and_the_colours_shown():
    image, mask = example()
    tall = (image.transpose(1, 0, 2), mask.T, mask.T.astype(np.int64))
    sheet = contact_sheet([(image, mask, mask), (image, None, mask), tall], ("image", "truth", "student"), NAMES, "Title")
    pixels = np.asarray(sheet).reshape(-1, 3)
    for i in (0, 1, 2, 255):
        assert (pixels == display_colours(NAMES)[i]).all(axis=1).any(), i
    shorter = contact_sheet([(image, mask, mask)], ("image", "truth", "student"), NAMES)
    assert shorter.width == sheet.width and shorter.height < sheet.height / 2
    unlabeled = contact_sheet([(image, np.full_like(mask, 255))], ("image", "truth"), NAMES)
    assert (np.asarray(unlabeled) == EMPTY).all(axis=2).any(), "a panel without a label says so"


def test_many_classes_wrap_the_legend_and_widen_nothing():
    image, mask = np.zeros((20, 30, 3), np.uint8), np.arange(600).reshape(20, 30) % 150
    names = tuple(f"a rather long class name {i}" for i in range(150))
    few = contact_sheet([(image, mask % 2, mask % 2)], ("image", "truth", "student"), names)
    many = contact_sheet([(image, mask, mask)], ("image", "truth", "student"), names)
    assert many.width == few.width and many.height > few.height


def test_rows_and_titles_must_fit():
    image, mask = example()
    with pytest.raises(ValueError, match=r"rows of 3 pictures, one for each title; got \[2\]"):
        contact_sheet([(image, mask)], ("image", "truth", "student"), NAMES)


def test_many_pairs_stand_two_in_a_row_and_an_odd_one_is_not_lost():
    image, mask = example()
    pairs = [(image, mask)] * 4 + [(image, np.full_like(mask, 7))]
    few, many = (contact_sheet(rows, ("image", "truth"), tuple("abcdefgh")) for rows in (pairs[:3], pairs))
    assert many.width > 1.9 * few.width - 100
    colour = display_colours(tuple("abcdefgh"))[7]
    assert (np.asarray(many) == colour).all(axis=2).sum() > PANEL[1] ** 2 / 2
