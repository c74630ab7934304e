"""annotations.py: the tool that wrote a folder is told from the content of its files."""

import json

import pytest
from folders import save_image, write

from s4former.rasterize.annotations import FORMATS, polygon_format

FILES = {  # format -> a file, and what it holds
    "LabelMe": ("a.json", {"version": "5.5.0", "flags": {}, "shapes": [], "imagePath": "a.jpg", "imageHeight": 4, "imageWidth": 6}),
    "COCO": (
        "train/_annotations.coco.json",
        {"images": [], "categories": [{"id": 1, "name": "leaf"}], "annotations": [{"segmentation": [[0, 0, 1, 0, 1, 1]]}]},
    ),
    "Supervisely": (
        "ds/ann/a.jpg.json",
        {"size": {"height": 4, "width": 6}, "objects": [{"points": {"exterior": [[0, 0]], "interior": []}}]},
    ),
    "CVAT": ("annotations.xml", '<annotations>\n<version>1.1</version><image id="0" name="a.jpg" width="6" height="4">'),
    "YOLO": ("labels/train/a.txt", "0 0.1 0.1 0.5 0.1 0.5 0.5\n"),
}


@pytest.mark.parametrize("name", FORMATS)
def test_the_format_of_a_folder_is_told_by_a_file_of_it(name, tmp_path):
    place, content = FILES[name]
    save_image(tmp_path / "a.jpg")
    write(tmp_path / "classes.json", '["leaf"]')
    write(tmp_path / place, content if isinstance(content, str) else json.dumps(content))
    assert polygon_format(tmp_path) == name


def test_files_of_images_without_an_object_are_not_counted(tmp_path):
    for index in range(30):
        write(tmp_path / "labels" / f"{index:02d}.txt", *([FILES["YOLO"][1]] if index == 29 else []))
    assert polygon_format(tmp_path) == "YOLO"


@pytest.mark.parametrize(
    ("place", "content"),
    [
        ("images/a.jpg", ""), ("palette.json", '{"leaf": "#ff0000"}'), ("dataset.json", '{"labels": {"leaf": 1}}'),
        ("labels/a.txt", "0 0.5 0.5 0.2 0.2\n1 0.3 0.3 0.1 0.1"),  # boxes
        ("labeled.txt", "1 2 3 4 5 6 7"), ("annotations.xml", "<annotation><object><name>dog</name></object></annotation>"),
        ("instances.json", '{"annotations": [{"bbox": [0, 0, 1, 1]}], "categories": []}'), (".hidden/a.json", '{"shapes": [], "imagePath": ""}'),
    ],
)  # fmt: skip
def test_other_files_are_no_polygons(place, content, tmp_path):
    write(tmp_path / place, content)
    assert polygon_format(tmp_path) is None
