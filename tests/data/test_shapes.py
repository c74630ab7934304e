"""The drawn world: a pure function, and not solvable by colour."""

import numpy as np
import pytest

from s4former.data.shapes import CLASSES, scene


def test_a_scene_depends_on_nothing_but_its_arguments():
    image, mask = scene(3, 11)
    scene(4, 0)
    np.random.seed(0)
    again, mask_again = scene(3, 11)
    assert np.array_equal(image, again) and np.array_equal(mask, mask_again)
    assert not np.array_equal(image, scene(3, 12)[0])
    assert not np.array_equal(image, scene(4, 11)[0])


def test_every_class_occurs_early():
    seen = set()
    for index in range(24):
        seen |= set(np.unique(scene(0, index, height=48, width=64)[1]).tolist())
    assert seen == set(range(len(CLASSES)))


@pytest.mark.parametrize("height, width", [(40, 72), (90, 50)])
def test_image_and_mask_have_the_size_asked_for(height, width):
    image, mask = scene(0, 0, height=height, width=width)
    assert image.shape == (height, width, 3) and image.dtype == np.uint8
    assert mask.shape == (height, width) and mask.dtype == np.uint8


def test_most_of_a_scene_is_background_but_never_all_of_them():
    share = np.mean([scene(1, index)[1] > 0 for index in range(20)])
    assert 0.15 < share < 0.45


def test_the_mean_colour_of_a_thing_does_not_tell_its_class():
    colours, labels = [], []
    for index in range(120):
        image, mask = scene(2, index, height=48, width=64)
        for label in np.unique(mask)[1:]:
            colours.append(image[mask == label].mean(axis=0))
            labels.append(label)
    colours, labels = np.array(colours), np.array(labels)
    half = len(labels) // 2
    centres = np.stack([colours[:half][labels[:half] == k].mean(axis=0) for k in range(1, len(CLASSES))])
    guess = 1 + np.linalg.norm(colours[half:, None] - centres, axis=2).argmin(axis=1)
    assert (guess == labels[half:]).mean() < 0.3  # chance is 1 in 8
