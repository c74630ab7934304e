"""coco_masks.py: a tiny annotation file and the answer made by hand."""

import json
import sys

import numpy as np
import pytest
from folders import error_message
from PIL import Image

from s4former.data.class_names import COCO_CLASSES
from s4former.prepare.coco_masks import (
    decode_rle,
    draw_mask,
    fill_polygon,
    instance_tasks,
    write_masks,
)

# COCO leaves out numbers, so category ids are not class ids: here every third one is missing
CATEGORIES = [{"id": i + i // 2, "name": name} for i, name in enumerate(COCO_CLASSES) if i]
PERSON, TABLE, CUP = (COCO_CLASSES.index(name) for name in ("person", "dining table", "cup"))
P, T, C = PERSON, TABLE, CUP


def category(number):
    return number + number // 2


def box(left, top, right, bottom):
    return [left, top, right, top, right, bottom, left, bottom]


def annotation(number, area, segmentation, crowd=0, image=7):
    return {"image_id": image, "category_id": category(number), "area": area, "iscrowd": crowd} | {
        "segmentation": segmentation
    }


def write_json(path, annotations, categories=CATEGORIES, images=None):
    images = images or [{"id": 7, "file_name": "000000000007.jpg", "height": 4, "width": 6}]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def test_instances_crowds_below_then_large_below_small(tmp_path):
    path = write_json(
        tmp_path / "instances_val2017.json",
        [
            annotation(CUP, 2, [box(2, 2, 3, 4)]),  # stands on the table, and comes before it in the file
            annotation(TABLE, 12, [box(0, 2, 6, 4)]),
            # down the columns: the first three columns all 0, the next three 1 but for their last pixel
            annotation(PERSON, 99, {"size": [4, 6], "counts": [12, 3, 1, 3, 1, 3, 1]}, crowd=1),
        ],
    )
    (task,) = instance_tasks(path, tmp_path / "masks")
    assert task.mask == tmp_path / "masks" / "000000000007.png"
    assert draw_mask(task).tolist() == [
        [0, 0, 0, P, P, P],
        [0, 0, 0, P, P, P],
        [T, T, C, T, T, T],
        [T, T, C, T, T, T],
    ]


def test_instances_of_equal_area_are_painted_in_the_order_of_the_file(tmp_path):
    both = [annotation(CUP, 4, [box(0, 0, 2, 2)]), annotation(PERSON, 4, [box(1, 0, 3, 2)])]
    (task,) = instance_tasks(write_json(tmp_path / "a.json", both), tmp_path)
    assert draw_mask(task)[:2].tolist() == [[C, P, P, 0, 0, 0]] * 2


def test_polygons_of_one_thing_are_joined_and_cut_at_the_border(tmp_path):
    thing = annotation(PERSON, 9, [box(-3, -3, 2, 1), box(1, 0, 3, 2), [5, 5]])
    (task,) = instance_tasks(write_json(tmp_path / "a.json", [thing]), tmp_path)
    assert draw_mask(task).tolist() == [[P, P, P, 0, 0, 0], [0, P, P, 0, 0, 0], [0] * 6, [0] * 6]


def test_a_pixel_belongs_to_a_polygon_if_its_centre_does(tmp_path):
    thing = annotation(PERSON, 9, [[0, 0, 3.5, 0, 0, 3.5]])  # below the line x + y = 3.5
    (task,) = instance_tasks(write_json(tmp_path / "a.json", [thing]), tmp_path)
    assert draw_mask(task)[:, :4].tolist() == [[P, P, P, 0], [P, P, 0, 0], [P, 0, 0, 0], [0, 0, 0, 0]]


def inside(x, y, points):
    """Whether a ray to the left of (x, y) meets an odd number of edges: the loop that `fill_polygon` does at once."""
    odd = False
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0)):
        if (y0 <= y) != (y1 <= y) and x0 + (y - y0) / (y1 - y0) * (x1 - x0) <= x:
            odd = not odd
    return odd


def test_polygons_are_those_of_a_loop_over_pixels_and_edges():
    draw = np.random.default_rng(0)
    for corners in (3, 4, 9, 30):  # they cross themselves, and reach over the border
        points = np.round(draw.uniform(-4, 20, (corners, 2)), 1)
        points[0] = 2.5, 3.5  # a corner in the centre of a pixel
        mask = np.zeros((13, 17), np.uint8)
        fill_polygon(mask, points.ravel().tolist(), 1)
        expected = [[inside(x + 0.5, y + 0.5, points) for x in range(17)] for y in range(13)]
        assert np.array_equal(mask, expected), corners


def test_an_image_without_annotations_has_a_mask_of_nothing(tmp_path):
    (task,) = instance_tasks(write_json(tmp_path / "a.json", []), tmp_path)
    assert draw_mask(task).tolist() == [[0] * 6] * 4


def test_run_lengths_as_numbers_and_as_a_string():
    # by hand: 3, 2, 4 as they are, then 1 - 2 = -1: characters 48 + 3, 48 + 2, 48 + 4, 48 + (-1 & 31)
    for counts in ([3, 2, 4, 1], "324O"):
        assert decode_rle({"size": [2, 5], "counts": counts}).tolist() == [
            [False, False, True, False, False],
            [False, True, False, False, True],
        ]


def test_without_pycocotools_the_extra_to_install_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    assert 'which is not installed; pip install "s4former[coco]"' in error_message(
        decode_rle, {"size": [2, 5], "counts": [10]}
    )


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_masks_are_written_once_and_only_those_that_are_missing(tmp_path, processes):
    images = [{"id": i, "file_name": f"{i:012d}.jpg", "height": 4, "width": 6} for i in (1, 2, 3)]
    things = [annotation(PERSON, 4, [box(0, 0, i, 1)], image=i) for i in (1, 2, 3)]
    tasks = instance_tasks(write_json(tmp_path / "a.json", things, images=images), tmp_path / "masks")
    assert write_masks(tasks, processes) == 3
    masks = sorted((tmp_path / "masks").iterdir())
    assert [path.name for path in masks] == [f"{i:012d}.png" for i in (1, 2, 3)]
    with Image.open(masks[2]) as mask:
        assert (mask.mode, np.asarray(mask)[0].tolist()) == ("L", [P, P, P, 0, 0, 0])
    masks[1].unlink()
    masks[2].write_bytes(b"left alone")
    assert write_masks(tasks, processes) == 1 and masks[2].read_bytes() == b"left alone"


def test_other_categories_are_refused(tmp_path):
    path = write_json(tmp_path / "a.json", [], [{"id": 1, "name": "leaf"}])
    assert error_message(instance_tasks, path, tmp_path) == (
        f"{path} has 1 categories, which are not COCO's 80 in their order; data of your own are read with"
        " data.source=folder"
    )


def test_files_that_are_no_annotations_are_refused(tmp_path):
    path = tmp_path / "captions.json"
    path.write_text('{"images": []}')
    assert error_message(instance_tasks, path, tmp_path) == (
        f"{path} has no 'annotations'; give instances_*2017.json"
    )
    path.write_text("{")
    assert error_message(instance_tasks, path, tmp_path).startswith(f"{path} is not valid JSON (")


@pytest.mark.parametrize("counts", [[1, 2], [1, 2, 100], [-1, 25], "zzzzz", None])
def test_an_annotation_that_cannot_be_drawn_is_named(tmp_path, counts):
    broken = annotation(PERSON, 4, {"size": [4, 6], "counts": counts})
    tasks = instance_tasks(write_json(tmp_path / "a.json", [broken]), tmp_path / "masks")
    assert "the annotations of 000000000007 cannot be drawn" in error_message(write_masks, tasks, 1)
