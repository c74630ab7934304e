"""The annotations of each tool, one function a format: what was drawn on which image, in the order in which it was drawn.

A reader takes one file. It returns the names of the classes, in their order, where the file has them, and the photos it names.
"""

import json
import re
import unicodedata
import xml.etree.ElementTree
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache, partial
from os.path import relpath
from pathlib import Path, PurePosixPath
from typing import Any

from ..data.lists import Layout, find_images, strip_endings
from ..errors import DataError, join_first
from ..files import read_text
from .painting import BOX, CROWD, ROUND, SQUARE, Drawing, Photo, Thing, bitmap, box, coco_runs, disc, polygons, runs, turned

Read = tuple[Sequence[str], list[Photo]]


class Images(Layout):
    """The images of a folder, found again under the names that annotations have for them."""

    def find(self, names: Sequence[str], *places: Path) -> tuple[str | None, str | None]:
        """The id of an image called by one of the names in one of the places, and that of the only one with its file name anywhere."""
        names = [unicodedata.normalize("NFC", name.replace("\\", "/")) for name in names]
        wholes = (Path(relpath(place / name, self.root)).as_posix() for name in names for place in places)
        there = (each for whole in wholes for each in (whole, strip_endings(whole)) if each in self.images)
        namesakes = (self.unique_file_names.get(strip_endings(PurePosixPath(name).name)) for name in names)
        return next(there, None), next(filter(None, namesakes), None)


def images_of(root: Path, masks: Path) -> Images:
    """The images below a folder, those among the masks left out."""
    images = {name: path for name, path in find_images(root, flat=False).items() if not path.is_relative_to(masks)}
    return Images(root, images, {}, flat=False, masks_in="")


def read_labelme(path: Path, images: Images) -> Read:
    content = json.loads(read_text(path))
    name = str(content["imagePath"])
    things = [Thing(str(shape["label"]), kind := shape.get("shape_type") or "polygon", labelme_drawing(kind, shape))
              for shape in content["shapes"]]  # fmt: skip
    size = size_of(content.get("imageHeight"), content.get("imageWidth"))
    return (), [Photo(name, *images.find((name, path.stem), path.parent), size, things)]


def labelme_drawing(kind: str, shape: dict[str, Any]) -> Drawing | None:
    points = shape["points"]
    if kind == "mask":
        return partial(bitmap, shape["mask"], *points[0])
    if kind == "rectangle" and len(points) == 2:
        return partial(box, *points)
    if kind == "circle":
        return partial(disc, *points)
    return partial(polygons, [points]) if kind in ("polygon", "rectangle") else None


def read_coco(path: Path, images: Images) -> Read:
    content = json.loads(read_text(path))
    names = {each["id"]: str(each["name"]) for each in sorted(content["categories"], key=lambda each: each["id"])}
    things = defaultdict(list)
    for each in content["annotations"]:
        label = names.get(each["category_id"], f"category {each['category_id']}")
        kind, drawing = "point", None
        if segmentation := each.get("segmentation"):
            kind = CROWD if each.get("iscrowd") else "outline"
            drawing = partial(coco_runs if isinstance(segmentation, dict) else polygons, segmentation)
        elif each.get("bbox"):
            left, top, width, height = each["bbox"]
            kind, drawing = BOX, partial(box, (left, top), (left + width, top + height))
        things[each["image_id"]].append(Thing(label, kind, drawing))
    halves = [folder for folder in {path.parent for path in images.images.values()} if f"_{path.stem}".endswith(f"_{folder.name}")]
    places, photos = (path.parent, *halves, images.root, images.root / "images"), []
    for each in content["images"]:
        name, size = each["file_name"], size_of(each.get("height"), each.get("width"))
        photos.append(Photo(name, *images.find([name], *places), size, things.pop(each["id"], [])))
    photos += [Photo(f"image {number}, which {path.name} does not list", None, None, None, rest) for number, rest in things.items()]
    return tuple(names.values()), photos


def read_yolo(path: Path, images: Images) -> Read:
    parts = path.relative_to(images.root).parts
    place = len(parts) - 1 - parts[::-1].index("labels")
    folder = images.root.joinpath(*parts[:place], "images", *parts[place + 1 : -1])
    found = images.find([path.stem], folder, folder.parent)
    names = yolo_names(path.parent, images.root)
    things = []
    for line in read_text(path).splitlines():
        if numbers := line.split():
            corners = [float(number) for number in numbers[1:]]
            kind, drawing = "outline", partial(polygons, [corners], shares=True)
            if len(corners) < 6:
                x, y, width, height = corners[:4]
                first, second = (x - width / 2, y - height / 2), (x + width / 2, y + height / 2)
                kind, drawing = BOX, partial(box, first, second, shares=True)
            if int(numbers[0]) not in names:
                known = join_first([f"{number} {name}" for number, name in names.items()])
                raise DataError(f"it has the class {numbers[0]}, and only {known} are named; add it to data.yaml or classes.txt")
            things.append(Thing(names[int(numbers[0])], kind, drawing))
    return names.values(), [Photo(path.stem, *found, None, things)]


@lru_cache
def yolo_names(folder: Path, root: Path) -> dict[int, str]:
    """The names of the nearest data.yaml or classes.txt at or above a folder."""
    import yaml

    for place in (folder, *folder.parents):
        for path in sorted(place.glob("*.y*ml")):
            try:
                content = yaml.safe_load(read_text(path))
            except yaml.YAMLError as error:
                raise DataError(f"{path} is no YAML: {error}") from None
            if names := isinstance(content, dict) and content.get("names"):
                return {int(index): str(name) for index, name in (names.items() if isinstance(names, dict) else enumerate(names))}
        if (place / "classes.txt").is_file():
            return dict(enumerate(filter(None, map(str.strip, read_text(place / "classes.txt").splitlines()))))
        if place == root:
            break
    raise DataError(f'there is no data.yaml in {root} that names the classes; write one with a line  names: ["leaf", "spot"]')


def read_supervisely(path: Path, images: Images) -> Read:
    content = json.loads(read_text(path))
    things = [Thing(each["classTitle"], each["geometryType"], supervisely_drawing(each)) for each in content["objects"]]
    name = path.name.removesuffix(".json")
    size = size_of(content["size"]["height"], content["size"]["width"])
    return (), [Photo(name, *images.find([name], path.parent.parent / "img"), size, things)]


def supervisely_drawing(thing: dict[str, Any]) -> Drawing | None:
    if thing["geometryType"] == "bitmap":
        return partial(bitmap, thing["bitmap"]["data"], *thing["bitmap"]["origin"])
    if thing["geometryType"] == "polygon":
        return partial(polygons, [thing["points"]["exterior"]], holes=thing["points"]["interior"])
    return partial(box, *thing["points"]["exterior"]) if thing["geometryType"] == "rectangle" else None


def read_cvat(path: Path, images: Images) -> Read:
    root = xml.etree.ElementTree.fromstring(path.read_bytes())
    if root.find("track") is not None:
        raise DataError("it holds the tracks of a video; export the task as CVAT for images 1.1")
    photos = []
    for image in root.iter("image"):
        things = [Thing(each.attrib["label"], each.tag, cvat_drawing(each), int(each.get("z_order", 0)))
                  for each in image if "label" in each.attrib and each.tag != "tag"]  # fmt: skip
        name, size = image.attrib["name"], size_of(image.get("height"), image.get("width"))
        photos.append(Photo(name, *images.find([name], path.parent, path.parent / "images", images.root), size, things))
    return [str(each.text) for each in root.iterfind("meta//labels/label/name")], photos


def cvat_drawing(thing: xml.etree.ElementTree.Element) -> Drawing | None:
    if thing.tag == "polygon":
        return partial(polygons, [re.split("[,;]", thing.attrib["points"])])
    if thing.tag == "mask":
        left, top, width, height = (int(thing.attrib[name]) for name in ("left", "top", "width", "height"))
        return partial(runs, [int(number) for number in thing.attrib["rle"].split(",")], left, top, (height, width))
    degrees = float(thing.get("rotation", 0))
    if thing.tag == "box":
        left, top, right, bottom = (float(thing.attrib[name]) for name in ("xtl", "ytl", "xbr", "ybr"))
        return partial(turned, SQUARE, ((left + right) / 2, (top + bottom) / 2), ((right - left) / 2, (bottom - top) / 2), degrees)
    if thing.tag == "ellipse":
        x, y, across, down = (float(thing.attrib[name]) for name in ("cx", "cy", "rx", "ry"))
        return partial(turned, ROUND, (x, y), (across, down), degrees)
    return None


def size_of(height: Any, width: Any) -> tuple[int, int] | None:
    """A size, where there is one."""
    return (int(height), int(width)) if height and width else None
