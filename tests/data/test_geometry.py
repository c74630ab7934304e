"""One geometry for image, mask and every view."""

import numpy as np
import pytest
from folders import picture
from PIL import Image

from s4former.config import Data
from s4former.data.colour import STRONG_COLOURS
from s4former.data.geometry import crop_pair, draw_geometry, resized_size, sample_bilinear, sample_nearest, shows_several_classes

SMALL = Data(crop=(16, 24), resize=(96, 24))


def draw_crop(image, mask, seed, data):
    return crop_pair(image, mask, draw_geometry(np.random.default_rng(seed), image.height, image.width, data, mask))


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
    image, mask, valid = draw_crop(picture(), halves(), 0, SMALL)
    assert (image.shape, mask.shape, valid.shape) == ((16, 24, 3), (16, 24), (16, 24))
    assert (image.dtype, mask.dtype, valid.dtype) == (np.uint8, np.uint8, bool)


def test_an_unlabelled_image_has_no_mask():
    assert draw_crop(picture(), None, 0, SMALL)[1] is None


def test_the_same_generator_gives_the_same_crop():
    first, second = (draw_crop(picture(), halves(), 5, SMALL) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second))


@pytest.mark.parametrize("seed", range(8))
def test_the_box_alone_gives_the_pixels_of_resizing_everything(seed):
    image, rng = picture(120, 170), np.random.default_rng(seed)
    geometry = draw_geometry(rng, 120, 170, Data(crop=(48, 64), resize=(512, 96), flip=0))
    height, width = geometry.resized
    everything = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR)).astype(int)
    rows, columns = geometry.box
    expected = everything[geometry.top :, geometry.left :][:rows, :columns]
    view = sample_bilinear(image, geometry).astype(int)
    difference = np.abs(view - expected)
    assert difference.max() <= 2 and (difference > 1).mean() < 0.001 and difference.mean() < 0.05


@pytest.mark.parametrize("seed", range(8))
def test_the_nearest_mask_is_the_one_of_pillow(seed):
    mask = np.random.default_rng(seed).integers(0, 21, (37, 53), dtype=np.uint8)
    geometry = draw_geometry(np.random.default_rng(seed), 37, 53, Data(crop=(16, 24), resize=(512, 40), flip=0))
    height, width = geometry.resized
    everything = np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))
    rows, columns = geometry.box
    assert np.array_equal(sample_nearest(mask, geometry), everything[geometry.top :, geometry.left :][:rows, :columns])


def test_image_and_mask_stay_together_under_scale_crop_and_flip():
    mask = halves(40, 62)
    image = Image.fromarray(np.repeat((mask * 80)[..., None], 3, axis=2))
    for seed in range(20):
        view, cut, valid = draw_crop(image, mask, seed, SMALL)
        away = np.abs(view[..., 0].astype(int) - np.where(cut == 255, 0, cut) * 80) > 120  # blurred edges aside
        assert not away[valid].any()


def test_padding_lies_at_the_bottom_and_the_right_and_is_never_valid():
    data = Data(crop=(32, 48), resize=(96, 16), ratio=(1.0, 1.0))
    image, mask, valid = draw_crop(picture(16, 24), halves(16, 24), 0, data)
    expected = np.zeros((32, 48), bool)
    expected[:16, :24] = True
    assert np.array_equal(valid, expected)
    assert not image[~valid].any() and (mask[~valid] == 255).all() and (mask[valid] != 255).all()


def test_flip_mirrors_the_picture_and_leaves_the_padding_where_it_is():
    data = Data(crop=(20, 40), resize=(96, 20), ratio=(1.0, 1.0), flip=1.0)
    image, mask, valid = draw_crop(picture(), halves(), 0, data)
    assert np.array_equal(image[:, :31], np.asarray(picture())[:, ::-1])
    assert np.array_equal(mask[:, :31], halves()[:, ::-1]) and not valid[:, 31:].any()


def test_a_mask_shows_several_classes_when_the_largest_has_less_than_the_share():
    mask = np.array([[0, 0, 0, 1], [255, 255, 255, 255]], np.uint8)
    assert not shows_several_classes(mask, 0.75) and shows_several_classes(mask, 0.76)  # 3 of 4 labelled pixels
    assert not shows_several_classes(np.zeros((2, 3), np.uint8), 1.0) and not shows_several_classes(np.full((2, 3), 255, np.uint8), 1.0)


def test_labelled_crops_look_for_a_second_class_and_unlabelled_crops_do_not():
    mask = np.zeros((100, 150), np.uint8)
    mask[:30, :30] = 1
    data = Data(crop=(16, 24), resize=(400, 100), ratio=(1.0, 1.0), flip=0)
    tried, plain = 0, 0
    for seed in range(100):
        tried += shows_several_classes(draw_crop(picture(100, 150), mask, seed, data)[1], 0.75)
        blind = draw_geometry(np.random.default_rng(seed), 100, 150, data)
        plain += shows_several_classes(sample_nearest(mask, blind), 0.75)
    assert plain < 15 and tried > 3 * plain


def test_views_of_one_geometry_differ_in_colour_only():
    geometry = draw_geometry(np.random.default_rng(0), 20, 31, SMALL)
    one, two = (crop_pair(picture(), None, geometry)[0] for _ in range(2))
    assert np.array_equal(one, two)
    assert not np.array_equal(STRONG_COLOURS["photometric"](one, np.random.default_rng(3)), one)
