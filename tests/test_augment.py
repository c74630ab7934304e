"""augment.py: one geometry for image, mask and every view; colour step by step."""

import colorsys
import dataclasses

import numpy as np
import pytest
from PIL import Image

from s4former.augment import (
    Colour,
    apply_colour,
    crop_pair,
    cut_image,
    cut_mask,
    draw_colour,
    draw_geometry,
    is_mixed,
    photometric,
    resized_size,
)
from s4former.config import Data

SMALL = Data(crop=(16, 24), resize=(96, 24))


def picture(height=20, width=31, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def halves(height=20, width=31):
    mask = np.zeros((height, width), np.uint8)
    mask[:, width // 2 :] = 3
    return mask


@pytest.mark.parametrize(
    "size, ratio, expected",
    [((375, 500), 1.0, (512, 683)), ((500, 375), 1.0, (683, 512)), ((100, 900), 1.0, (228, 2048)),
     ((375, 500), 0.5, (256, 341)), ((333, 500), 1.2345, (632, 949))],
)  # fmt: skip
def test_resized_size_is_the_one_of_the_released_code(size, ratio, expected):
    assert resized_size(*size, ratio, (2048, 512)) == expected


def test_both_sides_of_the_resize_shrink_to_whole_numbers_before_they_are_compared():
    # int(512 * 0.6543) = 335, not 335.0016; 1000 * 335 / 300 + 0.5 = 1117.2
    assert resized_size(300, 1000, 0.6543, (2048, 512)) == (335, 1117)


def test_a_crop_has_the_promised_shapes_and_types():
    image, mask, valid = crop_pair(picture(), halves(), np.random.default_rng(0), SMALL)
    assert (image.shape, mask.shape, valid.shape) == ((16, 24, 3), (16, 24), (16, 24))
    assert (image.dtype, mask.dtype, valid.dtype) == (np.uint8, np.uint8, bool)


def test_an_unlabelled_image_has_no_mask():
    assert crop_pair(picture(), None, np.random.default_rng(0), SMALL)[1] is None


def test_the_same_generator_gives_the_same_crop():
    first, second = (crop_pair(picture(), halves(), np.random.default_rng(5), SMALL) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second))


@pytest.mark.parametrize("seed", range(8))
def test_the_box_alone_gives_the_pixels_of_resizing_everything(seed):
    image, rng = picture(120, 170), np.random.default_rng(seed)
    geometry = draw_geometry(rng, 120, 170, Data(crop=(48, 64), resize=(512, 96), flip=0))
    height, width = geometry.resized
    everything = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR)).astype(int)
    rows, columns = geometry.box
    expected = everything[geometry.top :, geometry.left :][:rows, :columns]
    view = cut_image(image, geometry)[0].astype(int)[:rows, :columns]
    difference = np.abs(view - expected)
    assert difference.max() <= 2 and (difference > 1).mean() < 0.001 and difference.mean() < 0.05


@pytest.mark.parametrize("seed", range(8))
def test_the_nearest_mask_is_the_one_of_pillow(seed):
    mask = np.random.default_rng(seed).integers(0, 21, (37, 53), dtype=np.uint8)
    geometry = draw_geometry(np.random.default_rng(seed), 37, 53, Data(crop=(16, 24), resize=(512, 40), flip=0))
    height, width = geometry.resized
    everything = np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))
    rows, columns = geometry.box
    assert np.array_equal(
        cut_mask(mask, geometry)[:rows, :columns], everything[geometry.top :, geometry.left :][:rows, :columns]
    )


def test_image_and_mask_stay_together_under_scale_crop_and_flip():
    mask = halves(40, 62)
    image = Image.fromarray(np.repeat((mask * 80)[..., None], 3, axis=2))
    for seed in range(20):
        view, cut, valid = crop_pair(image, mask, np.random.default_rng(seed), SMALL)
        away = np.abs(view[..., 0].astype(int) - np.where(cut == 255, 0, cut) * 80) > 120  # blurred edges aside
        assert not away[valid].any()


def test_padding_lies_at_the_bottom_and_the_right_and_is_never_valid():
    data = Data(crop=(32, 48), resize=(96, 16), ratio=(1.0, 1.0))
    image, mask, valid = crop_pair(picture(16, 24), halves(16, 24), np.random.default_rng(0), data)
    expected = np.zeros((32, 48), bool)
    expected[:16, :24] = True
    assert np.array_equal(valid, expected)
    assert not image[~valid].any() and (mask[~valid] == 255).all() and (mask[valid] != 255).all()


def test_flip_mirrors_the_picture_and_leaves_the_padding_where_it_is():
    data = Data(crop=(20, 40), resize=(96, 20), ratio=(1.0, 1.0), flip=1.0)
    image, mask, valid = crop_pair(picture(), halves(), np.random.default_rng(0), data)
    assert np.array_equal(image[:, :31], np.asarray(picture())[:, ::-1])
    assert np.array_equal(mask[:, :31], halves()[:, ::-1]) and not valid[:, 31:].any()


def test_a_mask_is_mixed_when_the_largest_class_has_less_than_the_share():
    mask = np.array([[0, 0, 0, 1], [255, 255, 255, 255]], np.uint8)
    assert not is_mixed(mask, 0.75) and is_mixed(mask, 0.76)  # 3 of 4 labelled pixels
    assert not is_mixed(np.zeros((2, 3), np.uint8), 1.0) and not is_mixed(np.full((2, 3), 255, np.uint8), 1.0)


def test_labelled_crops_look_for_a_second_class_and_unlabelled_crops_do_not():
    mask = np.zeros((100, 150), np.uint8)
    mask[:30, :30] = 1
    data = Data(crop=(16, 24), resize=(400, 100), ratio=(1.0, 1.0), flip=0)
    tried, plain = 0, 0
    for seed in range(100):
        tried += is_mixed(crop_pair(picture(100, 150), mask, np.random.default_rng(seed), data)[1], 0.75)
        blind = draw_geometry(np.random.default_rng(seed), 100, 150, data)
        plain += is_mixed(cut_mask(mask, blind), 0.75)
    assert plain < 15 and tried > 3 * plain


def test_views_of_one_geometry_differ_in_colour_only():
    geometry = draw_geometry(np.random.default_rng(0), 20, 31, SMALL)
    (one, valid), (two, _) = (cut_image(picture(), geometry) for _ in range(2))
    assert np.array_equal(one, two)
    assert not np.array_equal(photometric(one, np.random.default_rng(3)), one)


def test_the_colour_that_changes_nothing_changes_nothing():
    image = np.asarray(picture())
    assert np.array_equal(apply_colour(image, Colour()), image)


def test_brightness_is_added_clipped_and_truncated():
    image = np.array([[[0, 100, 250]]], np.uint8)
    assert apply_colour(image, Colour(brightness=10.7)).tolist() == [[[10, 110, 255]]]
    assert apply_colour(image, Colour(brightness=-10.7)).tolist() == [[[0, 89, 239]]]


def test_contrast_multiplies_what_brightness_left():
    image = np.array([[[0, 100, 250]]], np.uint8)
    assert apply_colour(image, Colour(brightness=10.7, contrast=0.5)).tolist() == [[[5, 55, 127]]]
    last = apply_colour(image, Colour(brightness=10.7, contrast=0.5, contrast_last=True))
    assert last.tolist() == [[[5, 55, 127]]]


def test_contrast_before_saturation_is_not_contrast_after_it():
    image = np.array([[[200, 100, 50]]], np.uint8)
    first = apply_colour(image, Colour(contrast=1.5, saturation=1.5))
    last = apply_colour(image, Colour(contrast=1.5, saturation=1.5, contrast_last=True))
    assert first.tolist() != last.tolist()


def test_saturation_and_hue_agree_with_the_formula():
    image = np.asarray(picture(16, 24))
    colour = Colour(saturation=0.7, hue=-18)
    got = apply_colour(image, colour).astype(int)
    for row, column in np.ndindex(16, 24):
        hue, saturation, value = colorsys.rgb_to_hsv(*(image[row, column] / 255))
        expected = colorsys.hsv_to_rgb((hue - 18 / 180) % 1, saturation * 0.7, value)
        assert np.abs(got[row, column] - np.array(expected) * 255).max() <= 8  # whole numbers all the way


def test_half_a_turn_of_hue_brings_red_to_cyan_and_a_whole_turn_back():
    red = np.array([[[255, 0, 0]]], np.uint8)
    assert np.abs(apply_colour(red, Colour(hue=90)).astype(int) - [0, 255, 255]).max() <= 6
    assert apply_colour(red, Colour(hue=180)).tolist() == red.tolist()


def test_grey_has_no_hue():
    grey = np.full((2, 3, 3), 130, np.uint8)
    assert np.array_equal(apply_colour(grey, Colour(hue=17, saturation=1.5)), grey)


def test_draws_stay_in_their_ranges_and_each_happens_half_of_the_time():
    rng = np.random.default_rng(0)
    draws = [dataclasses.asdict(draw_colour(rng)) for _ in range(2000)]
    column = {name: np.array([draw[name] for draw in draws], float) for name in draws[0]}
    assert np.abs(column["brightness"]).max() < 32 and np.abs(column["brightness"]).max() > 31
    for name in ("contrast", "saturation"):
        assert 0.5 <= column[name].min() < 0.52 and 1.48 < column[name].max() < 1.5
        assert 0.45 < (column[name] != 1).mean() < 0.55
    assert (column["hue"].min(), column["hue"].max()) == (-18, 17)
    assert 0.45 < column["contrast_last"].mean() < 0.55
