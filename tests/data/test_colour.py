"""The photometric distortion step by step, and the stronger colours of UniMatch and AugSeg."""

import colorsys
import dataclasses
import typing

import numpy as np
import pytest
from PIL import Image
from folders import picture

from s4former.config import Method
from s4former.data.colour import (
    INTENSITIES,
    RANDAUGMENT,
    STRONG_COLOURS,
    Colour,
    apply_colour,
    draw_colour,
    shift_hue,
)


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


def test_every_strong_colour_of_the_config_is_a_function():
    assert set(typing.get_args(typing.get_type_hints(Method)["strong_colour"])) == set(STRONG_COLOURS)


@pytest.mark.parametrize("name", STRONG_COLOURS)
def test_every_strong_colour_is_a_function_of_its_generator_and_leaves_the_original_alone(name):
    image = np.asarray(picture(24, 36)).copy()
    before = image.copy()
    one, two, other = (STRONG_COLOURS[name](image, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert one.shape == image.shape and one.dtype == np.uint8
    assert np.array_equal(one, two) and np.array_equal(one, other) == (name == "none") and np.array_equal(image, before)


def is_grey(image):
    return np.array_equal(image[..., 0], image[..., 1]) and np.array_equal(image[..., 1], image[..., 2])


def test_jitter_leaves_a_tenth_of_the_sharp_coloured_images_and_makes_a_fifth_grey():
    image = np.asarray(picture(8, 12))
    results = [STRONG_COLOURS["jitter"](image, np.random.default_rng(seed)) for seed in range(600)]
    untouched = np.mean([np.array_equal(result, image) for result in results])
    assert 0.05 < untouched < 0.115  # 0.2 without jitter, 0.8 of them in colour, half of those not blurred: 0.08
    assert 0.15 < np.mean([is_grey(result) for result in results]) < 0.25


def test_jitter_keeps_grey_grey_and_its_brightness_within_the_factor():
    grey = np.full((6, 9, 3), 100, np.uint8)
    levels = [STRONG_COLOURS["jitter"](grey, np.random.default_rng(seed)) for seed in range(200)]
    assert all(is_grey(level) for level in levels)
    assert 50 <= min(map(np.min, levels)) < 60 and 140 < max(map(np.max, levels)) <= 150


def test_a_quarter_turn_of_hue_is_the_one_of_the_formula():
    red = Image.new("RGB", (3, 2), (255, 0, 0))
    expected = np.array(colorsys.hsv_to_rgb(0.25, 1, 1)) * 255
    assert np.abs(np.asarray(shift_hue(red, 0.25))[0, 0] - expected).max() <= 6
    assert np.array_equal(np.asarray(shift_hue(red, 0.0)), np.asarray(red))


def test_random_intensity_makes_one_to_three_changes_of_eleven_each_as_often_as_the_others(monkeypatch):
    from s4former.data import colour

    seen, lengths = [], []
    counting = [lambda picture, rng, number=number: seen.append(number) or picture for number in range(len(INTENSITIES))]
    monkeypatch.setattr(colour, "INTENSITIES", counting)
    for seed in range(1000):
        before = len(seen)
        STRONG_COLOURS["random_intensity"](np.zeros((2, 3, 3), np.uint8), np.random.default_rng(seed))
        lengths.append(len(seen) - before)
    assert set(lengths) == {1, 2, 3} and min(lengths.count(n) for n in (1, 2, 3)) > 280
    assert len(INTENSITIES) == 11 and all(120 < seen.count(number) < 250 for number in range(11))


def test_randaugment_makes_two_of_twelve_changes_one_of_them_the_negative(monkeypatch):
    from s4former.data import colour

    grey = Image.new("RGB", (3, 2), (10, 20, 30))
    assert np.array_equal(np.asarray(RANDAUGMENT[-1](grey, None))[0, 0], [245, 235, 225])
    seen = []
    counting = [lambda picture, rng, number=number: seen.append(number) or picture for number in range(len(RANDAUGMENT))]
    monkeypatch.setattr(colour, "RANDAUGMENT", counting)
    for seed in range(1000):
        STRONG_COLOURS["randaugment"](np.zeros((2, 3, 3), np.uint8), np.random.default_rng(seed))
    assert len(seen) == 2000 and len(RANDAUGMENT) == 12 and all(120 < seen.count(number) < 220 for number in range(12))


def test_posterizing_keeps_four_to_seven_bits_and_solarizing_starts_above_1_to_255():
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    posterize, solarize = INTENSITIES[8:10]
    kept = {len(set(posterize(ramp, np.random.default_rng(seed)).tobytes())) for seed in range(40)}
    assert kept == {16, 32, 64, 128}
    first = [np.flatnonzero(np.asarray(solarize(ramp, np.random.default_rng(seed))).ravel() != np.arange(256))[0] for seed in range(2000)]
    assert (min(first), max(first)) == (1, 255)


def test_every_intensity_but_the_first_changes_a_picture_and_none_its_size():
    image = picture(16, 24)
    image = image.point(lambda value: 60 + value // 4)  # noise over all grey levels has nothing for autocontrast to do
    for number, change in enumerate(INTENSITIES):
        results = [change(image, np.random.default_rng(seed)) for seed in range(5)]
        assert any(result.tobytes() != image.tobytes() for result in results) == (number > 0), number
        assert all(result.size == image.size for result in results)
    assert INTENSITIES[1](image, None).getextrema() == ((0, 255),) * 3
