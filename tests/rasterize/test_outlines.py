"""outlines.py: regions of a mask as polygons, and back."""

import numpy as np
import pytest

from s4former.rasterize.outlines import area_within, outlines, polygons_of, simplify
from s4former.rasterize.painting import polygons


def painted(mask, found):
    """The polygons over each other, the later on top; 99 where there is none."""
    result = np.full(mask.shape, 99)
    for value, ring in found:
        area, row, column = polygons([ring], *mask.shape)
        result[row : row + area.shape[0], column : column + area.shape[1]][area] = value
    return result


def blobs(seed, height=40, width=56, values=4):
    """A mask of smooth regions with holes and islands."""
    noise = np.random.default_rng(seed).normal(size=(height + 24, width + 24))
    for axis in (0, 1, 0, 1, 0, 1):
        noise = np.apply_along_axis(np.convolve, axis, noise, np.ones(9) / 9, "valid")
    edges = np.quantile(noise, np.linspace(0, 1, values + 1)[1:-1])
    return np.digitize(noise, edges).astype(np.uint8)


@pytest.mark.parametrize("seed", range(5))
def test_polygons_painted_over_each_other_give_the_mask_again(seed):
    mask = blobs(seed)
    assert np.array_equal(painted(mask, polygons_of(mask, least=1, tolerance=0)), mask)
    simpler = polygons_of(mask, tolerance=1)
    assert (painted(mask, simpler) == mask).mean() > 0.9
    assert sum(len(ring) for _, ring in simpler) < 0.6 * sum(len(ring) for _, ring in polygons_of(mask, tolerance=0))


def test_parts_that_touch_at_a_corner_stay_apart_and_holes_have_no_outline():
    touching = np.array([[1, 0], [0, 1]], bool)
    assert sorted(ring.tolist() for ring in outlines(touching)) == [[[0, 0], [1, 0], [1, 1], [0, 1]], [[1, 1], [2, 1], [2, 2], [1, 2]]]
    ring = np.ones((5, 5), bool)
    ring[1:3, 1:3] = ring[3, 3] = False
    (outer,) = outlines(ring)
    assert outer.tolist() == [[0, 0], [5, 0], [5, 5], [0, 5]] and area_within(outer) == 25 and area_within(outer[::-1]) == -25


def test_corners_nearer_than_the_tolerance_are_left_out():
    stairs = np.array([[0, 0], [8, 0], [8, 8], [4, 8], [4, 7], [2, 7], [2, 8], [0, 8]])
    assert simplify(stairs, 1.0).tolist() == [[0, 0], [8, 0], [8, 8], [0, 8]]
    assert simplify(stairs, 0.4).tolist() == stairs.tolist()


def test_a_small_region_goes_to_what_surrounds_it():
    mask = np.zeros((10, 10), np.uint8)
    mask[4:7, 4:7] = 3
    assert [value for value, _ in polygons_of(mask, least=10)] == [0]
    assert [value for value, _ in polygons_of(mask, least=9)] == [0, 3]
