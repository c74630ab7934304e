"""Colours on the device against those that Pillow gives on the host."""

import numpy as np
import pytest
import torch

from s4former.data.colour import Colour, Jitter, apply_colour, apply_jitter, draw_colour, draw_jitter
from s4former.data.device_colour import DEVICE_COLOURS, conversion
from s4former.data.shapes import scene

CPU = torch.device("cpu")


def on_device(word, images, draws):
    colour = DEVICE_COLOURS[word]
    tensor = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    return colour.apply(tensor, **colour.pack(draws)).permute(0, 2, 3, 1).numpy()


def pictures(count):
    """Half of them scenes, half of them noise."""
    noise = np.random.default_rng(1).integers(0, 256, (count, 24, 32, 3), dtype=np.uint8)
    return [noise[i] if i % 2 else scene(0, i, height=24, width=32)[0] for i in range(count)]


def test_the_photometric_distortion_is_the_hosts_to_the_bit():
    images, rng = pictures(64), np.random.default_rng(0)
    draws = [Colour(), *(draw_colour(rng) for _ in images[1:])]
    expected = [apply_colour(image, draw) for image, draw in zip(images, draws)]
    assert np.array_equal(on_device("photometric", images, draws), expected)


def test_the_jitter_is_the_hosts_to_within_a_grey_level():
    images, rng = pictures(96), np.random.default_rng(0)
    draws = [Jitter(), Jitter(blur=0.1), Jitter(blur=2.0), Jitter(grey=True), *(draw_jitter(rng) for _ in images[4:])]
    expected = np.stack([apply_jitter(image, draw) for image, draw in zip(images, draws)]).astype(int)
    difference = np.abs(on_device("jitter", images, draws) - expected)
    assert difference.max() <= 1 and (difference > 0).mean() < 1e-3
    assert difference[0].max() == 0


@pytest.mark.parametrize("source, target", [("RGB", "HSV"), ("HSV", "RGB")])
def test_a_conversion_table_has_every_colour_of_pillow(source, target):
    from PIL import Image

    colours = np.random.default_rng(0).integers(0, 256, (1, 500, 3), dtype=np.uint8)
    expected = np.asarray(Image.frombytes(source, (500, 1), colours.tobytes()).convert(target))[0].astype(int)
    numbers = colours[0].astype(int) @ [1 << 16, 1 << 8, 1]
    assert conversion(source, target, CPU)[torch.from_numpy(numbers)].tolist() == (expected @ [1 << 16, 1 << 8, 1]).tolist()
