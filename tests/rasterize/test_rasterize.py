"""rasterize: for each tool a small folder as it exports it, and the mask made by hand."""

import base64
import io
import json
import zlib

import numpy as np
import pytest
from folders import HEIGHT, WIDTH, encoded, save_image, save_photo, write
from PIL import Image

from s4former.config import Data
from s4former.data.masks import read_ids, read_mask, stated_ids
from s4former.new_config.command import main as new_config
from s4former.rasterize.command import main
from s4former.rasterize.painting import polygons

LEAF, SPOT = 1, 2


def write_json(path, content):
    write(path, json.dumps(content))


def png(area):
    """An array of 0 and 1 as the bytes of a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(area, np.uint8) * 255).save(buffer, "PNG")
    return buffer.getvalue()


def corners(left, top, right, bottom):
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def flat(left, top, right, bottom):
    return [number for corner in corners(left, top, right, bottom) for number in corner]


def rasterize(capsys, root, *arguments, code=0):
    """What the command prints; its masks by their path below masks/."""
    assert main([str(root), *arguments]) == code
    printed = capsys.readouterr()
    folder = root / "masks"
    masks = {path.relative_to(folder).as_posix(): read_ids(encoded(path), {}) for path in folder.rglob("*.png")}
    return (printed.out if code == 0 else printed.err), masks


def drawn(*boxes, rest=0):
    """(H, W): boxes of (left, top, right, bottom, value) over each other."""
    mask = np.full((HEIGHT, WIDTH), rest, np.uint8)
    for left, top, right, bottom, value in boxes:
        mask[top:bottom, left:right] = value
    return mask


def labelme(path, *shapes, height=HEIGHT, width=WIDTH, image=None):
    named = [{"label": label, "points": points, "shape_type": kind, **more} for label, kind, points, more in shapes]
    write_json(path, {"shapes": named, "imagePath": image or f"{path.stem}.jpg", "imageHeight": height, "imageWidth": width, "imageData": None})


def test_labelme_polygons_boxes_discs_and_masks_in_the_order_of_the_file(tmp_path, capsys):
    for name in ("a.jpg", "deep/b.jpg", "without.jpg"):
        save_image(tmp_path / name)
    labelme(
        tmp_path / "a.json",
        ("leaf", "polygon", corners(3, 2, 12, 10), {}), ("spot", "rectangle", [[16, 12], [8, 6]], {}),
        ("spot", "mask", [[20, 1], [21, 2]], {"mask": base64.b64encode(png([[1, 0], [1, 1]])).decode()}),
        ("leaf", "point", [[1, 1]], {}), ("__ignore__", "rectangle", [[0, 14], [24, 16]], {}),
    )  # fmt: skip
    labelme(tmp_path / "deep" / "b.json", ("leaf", "circle", [[12, 8], [12, 12]], {}), image="..\\elsewhere\\b.png")
    text, masks = rasterize(capsys, tmp_path)
    expected = drawn((3, 2, 12, 10, LEAF), (8, 6, 16, 12, SPOT), (20, 1, 22, 3, SPOT), (0, 14, 24, 16, 255))
    expected[1, 21] = 0
    assert masks.keys() == {"a.png", "deep/b.png"} and np.array_equal(masks["a.png"], expected)
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    assert np.array_equal(masks["deep/b.png"], (np.hypot(x - 12, y - 8) < 4).astype(np.uint8))
    undrawn = sum((mask == 0).sum() for mask in masks.values()) / (2 * HEIGHT * WIDTH)
    lap = 100 * 16 / (2 * HEIGHT * WIDTH * (1 - undrawn))
    assert text.splitlines() == [
        "LabelMe: 6 objects on 2 images",
        f"written: 2 masks in {tmp_path}/masks, their ids 0 background, 1 leaf, 2 spot",
        f"nobody drew on {100 * undrawn:.1f}% of the pixels: taken as the class background; with --background ignore as no label",
        f"things of several classes overlap on {lap:.2f}% of what is drawn: the later one (--smaller-on-top: the smaller) lies on top",
        "shapes that are not drawn, of the kind point: 1, the first: a.jpg",
        "",
        f"next:    s4former new-config {tmp_path} -o mine.json",
    ]
    ids = {"background": 0, "leaf": LEAF, "spot": SPOT, "": 255}
    assert json.loads((tmp_path / "masks" / "ids.json").read_text()) == ids
    with Image.open(tmp_path / "masks" / "a.png") as mask:
        assert (mask.mode, stated_ids(mask)) == ("P", ids)


def coco(path, annotations, images, categories=({"id": 1, "name": "leaf"}, {"id": 2, "name": "spot"})):
    write_json(path, {"images": images, "annotations": annotations, "categories": list(categories)})


def photo(number, name, **more):
    return {"id": number, "file_name": name, "height": HEIGHT, "width": WIDTH, **more}


def thing(image, category, segmentation, **more):
    return {"image_id": image, "category_id": category, "segmentation": segmentation, "iscrowd": 0, **more}


def test_the_classes_given_number_the_masks_as_those_that_are_there_already(tmp_path, capsys):
    save_image(tmp_path / "a.jpg")
    labelme(tmp_path / "a.json", ("leaf", "polygon", corners(0, 0, 8, 8), {}), ("spot", "polygon", corners(10, 2, 14, 6), {}))
    _, masks = rasterize(capsys, tmp_path, "--classes", "background", "spot", "leaf", "bud")
    assert np.array_equal(masks["a.png"], drawn((0, 0, 8, 8, 2), (10, 2, 14, 6, 1)))
    with Image.open(tmp_path / "masks/a.png") as mask:
        assert list(stated_ids(mask)) == ["background", "spot", "leaf", "bud", ""]
    said, _ = rasterize(capsys, tmp_path, "--overwrite", "--classes", "background", "leaf", code=1)
    assert "--classes lacks spot" in said


def test_coco_parts_run_lengths_and_crowds(tmp_path, capsys):
    for half in ("train2017", "val2017"):
        save_image(tmp_path / half / "a.jpg")
    save_image(tmp_path / "train2017" / "empty.jpg")
    column = {"size": [HEIGHT, WIDTH], "counts": [20 * HEIGHT, 8, HEIGHT * WIDTH - 20 * HEIGHT - 8]}  # the upper half of column 20
    things = [
        thing(7, 2, [flat(4, 4, 6, 6), flat(10, 4, 12, 6)]), thing(7, 1, column),
        thing(7, 1, {"size": [HEIGHT, WIDTH], "counts": [0, 5 * HEIGHT, (WIDTH - 5) * HEIGHT]}, iscrowd=1),
        thing(7, 1, []), thing(7, 1, [], bbox=[22, 14, 2, 2]),
    ]  # fmt: skip
    coco(tmp_path / "annotations" / "instances_train2017.json", things, [photo(7, "a.jpg"), photo(8, "empty.jpg"), photo(9, "lost.jpg")])
    coco(tmp_path / "annotations" / "instances_val2017.json", [thing(3, 1, [flat(0, 0, 24, 2)])], [photo(3, "a.jpg")])
    write_json(tmp_path / "annotations" / "captions_val2017.json", {"annotations": []})
    text, masks = rasterize(capsys, tmp_path)
    boxes = [(4, 4, 6, 6, SPOT), (10, 4, 12, 6, SPOT), (20, 0, 21, 8, LEAF)]
    assert masks.keys() == {"train2017/a.png", "val2017/a.png"}
    assert np.array_equal(masks["train2017/a.png"], drawn((0, 0, 5, 16, 255), (22, 14, 24, 16, 255), *boxes))
    assert np.array_equal(masks["val2017/a.png"], drawn((0, 0, 24, 2, LEAF)))
    assert text.splitlines()[3:-2] == [
        f".json files that are no annotations of COCO, not read: 1, the first: {tmp_path}/annotations/captions_val2017.json",
        "images that the annotations name and that are not there: 1, the first: lost.jpg",
        "shapes that are not drawn, of the kind point: 1, the first: a.jpg",
        "crowd regions, taken as no label (--crowds: as objects; some tools mark all run-length codes so): 1, the first: a.jpg",
        "things known by a box alone, which is taken as no label: 1, the first: a.jpg",
        "images without an object, left without a mask (--empty: all the class background): 1, the first: empty.jpg",
    ]
    _, masks = rasterize(capsys, tmp_path, "--overwrite", "--crowds", "--empty", "--background", "ignore")
    whole = {"train2017/a.png": drawn(*((*each[:4], each[4] - 1) for each in [*boxes, (0, 0, 5, 16, LEAF)]), rest=255)}
    whole |= {"train2017/empty.png": drawn(rest=255), "val2017/a.png": drawn((0, 0, 24, 2, 0), rest=255)}
    assert masks.keys() == whole.keys() and all(np.array_equal(masks[name], whole[name]) for name in masks)


def test_roboflow_has_a_file_in_each_folder_and_a_supercategory_that_is_no_class(tmp_path, capsys):
    categories = [{"id": 0, "name": "plants", "supercategory": "none"}, *({"id": i, "name": name} for i, name in ((2, "leaf"), (1, "spot")))]
    for half, left in (("train", 2), ("valid", 5)):
        save_image(tmp_path / half / "a.jpg")
        coco(tmp_path / half / "_annotations.coco.json", [thing(0, 1, [flat(left, 2, 9, 4)]), thing(0, 2, [flat(2, 3, 9, 8)])], [photo(0, "a.jpg")], categories)
    text, masks = rasterize(capsys, tmp_path)
    for half, left in (("train", 2), ("valid", 5)):  # ids in the order of the categories: spot, leaf
        assert np.array_equal(masks[f"{half}/a.png"], drawn((left, 2, 9, 4, 1), (2, 3, 9, 8, 2)))
    assert "classes that nothing is drawn of, left out: 1, the first: plants" in text
    _, masks = rasterize(capsys, tmp_path, "--smaller-on-top", "--overwrite")
    assert np.array_equal(masks["valid/a.png"], drawn((2, 3, 9, 8, 2), (5, 2, 9, 4, 1)))


def test_cvat_and_label_studio_write_coco_beside_images(tmp_path, capsys):
    save_image(tmp_path / "cvat" / "images" / "default" / "a.jpg")
    coco(tmp_path / "cvat" / "annotations" / "instances_default.json", [thing(1, 1, [flat(2, 2, 9, 4)])], [photo(1, "a.jpg")])
    save_image(tmp_path / "studio" / "images" / "ab12-a.jpg")
    coco(tmp_path / "studio" / "result.json", [thing(0, 0, [flat(2, 2, 9, 4)])], [photo(0, "images\\ab12-a.jpg")], [{"id": 0, "name": "leaf"}])
    assert np.array_equal(rasterize(capsys, tmp_path / "cvat")[1]["default/a.png"], drawn((2, 2, 9, 4, 1)))
    assert np.array_equal(rasterize(capsys, tmp_path / "studio")[1]["ab12-a.png"], drawn((2, 2, 9, 4, 1)))


@pytest.mark.parametrize("names", ["names: [leaf, spot]", "names:\n  0: leaf\n  1: spot"])
def test_yolo_outlines_are_shares_of_the_image(tmp_path, capsys, names):
    for half in ("train", "val"):
        save_image(tmp_path / "images" / half / "a.jpg")
        lines = [[0, *flat(0.25, 0.25, 0.75, 0.5)], [1, *flat(0.5, 0, 1, 0.375)]][: 1 + (half == "train")]
        write(tmp_path / "labels" / half / "a.txt", *(" ".join(map(str, line)) for line in lines), "1 0.5 0.5 0.1 0.1")
    write(tmp_path / "data.yaml", "train: images/train", "nc: 2", names)
    save_image(tmp_path / "images" / "train" / "background.jpg")
    write(tmp_path / "labels" / "train" / "background.txt")
    text, masks = rasterize(capsys, tmp_path)
    box = (11, 7, 13, 9, 255)  # no label, below the others
    assert np.array_equal(masks["train/a.png"], drawn(box, (6, 4, 18, 8, LEAF), (12, 0, 24, 6, SPOT)))
    assert np.array_equal(masks["val/a.png"], drawn(box, (6, 4, 18, 8, LEAF))) and len(masks) == 2
    assert "things known by a box alone, which is taken as no label: 2, the first: a" in text and "all the class background): 1, the first: background" in text


def test_supervisely_polygons_with_holes_and_bitmaps_at_their_origin(tmp_path, capsys):
    save_image(tmp_path / "ds" / "img" / "a.jpg")
    area = np.zeros((2, 3), np.uint8)
    area[0, 1:] = area[1, 0] = 1
    packed = base64.b64encode(zlib.compress(png(area))).decode()
    objects = [
        {"classTitle": "leaf", "geometryType": "polygon", "points": {"exterior": corners(3, 2, 15, 12), "interior": [corners(5, 4, 8, 6)]}},
        {"classTitle": "spot", "geometryType": "bitmap", "bitmap": {"origin": [20, 14], "data": packed}},
        {"classTitle": "spot", "geometryType": "rectangle", "points": {"exterior": [[10, 8], [12, 10]], "interior": []}},
    ]
    write_json(tmp_path / "meta.json", {"classes": [{"title": "leaf"}, {"title": "spot"}]})
    write_json(tmp_path / "ds" / "ann" / "a.jpg.json", {"size": {"height": HEIGHT, "width": WIDTH}, "objects": objects})
    _, masks = rasterize(capsys, tmp_path)
    expected = drawn((3, 2, 15, 12, LEAF), (5, 4, 8, 6, 0), (10, 8, 12, 10, SPOT))
    expected[14:, 20:23][area == 1] = SPOT
    assert masks.keys() == {"ds/a.png"} and np.array_equal(masks["ds/a.png"], expected)


def test_cvat_draws_higher_levels_on_top(tmp_path, capsys):
    save_image(tmp_path / "images" / "a.jpg")
    points = ";".join(f"{x}.00,{y}.00" for x, y in corners(3, 2, 12, 10))
    shapes = (
        f'<polygon label="leaf" points="{points}" z_order="1"></polygon>'
        '<mask label="spot" rle="1, 2, 1, 2" left="2" top="2" width="3" height="2" z_order="2"></mask>'
        '<polygon label="spot" points="8,6;16,6;16,12;8,12" z_order="0"></polygon>'
        '<box label="spot" xtl="20" ytl="1" xbr="23" ybr="6" z_order="0"></box><tag label="spot"></tag>'
        '<box label="leaf" xtl="17.5" ytl="10.5" xbr="22.5" ybr="14.5" rotation="90" z_order="0"></box>'
        '<ellipse label="leaf" cx="6" cy="12" rx="5" ry="2" rotation="30" z_order="0"></ellipse><cuboid label="leaf"></cuboid>'
    )
    labels = "".join(f"<label><name>{name}</name></label>" for name in ("spot", "leaf", "stone"))
    text = f'<annotations><version>1.1</version><meta><job><labels>{labels}</labels></job></meta><image id="0" name="a.jpg" width="24" height="16">'
    write(tmp_path / "annotations.xml", f"{text}{shapes}</image></annotations>")
    text, masks = rasterize(capsys, tmp_path)
    expected = drawn((20, 1, 23, 6, 1), (8, 6, 16, 12, 1), (18, 10, 22, 15, 2))  # ids in the order of the labels
    y, x = np.mgrid[:HEIGHT, :WIDTH] - np.array([11.5, 5.5])[:, None, None]
    cosine, sine = np.cos(np.pi / 6), np.sin(np.pi / 6)  # to the right and down
    expected[((cosine * x + sine * y) / 5) ** 2 + ((cosine * y - sine * x) / 2) ** 2 < 1] = 2
    expected[2:10, 3:12] = 2
    expected[2, 3:5] = expected[3, 3:5] = 1
    assert np.array_equal(masks["a.png"], expected)
    assert "shapes that are not drawn, of the kind cuboid: 1" in text and "classes that nothing is drawn of, left out: 1, the first: stone" in text


def test_annotations_of_images_and_categories_that_a_coco_file_lacks_are_told(tmp_path, capsys):
    save_image(tmp_path / "a.png")
    rows = [thing(1, 1, [flat(0, 0, 4, 4)]), thing(1, 9, [flat(6, 6, 9, 9)]), thing(77, 1, [flat(0, 0, 4, 4)])]
    coco(tmp_path / "all.json", rows, [photo(1, "a.png")])
    said = rasterize(capsys, tmp_path)[0]
    assert "2 category 9" in said and "that are not there: 1, the first: image 77, which all.json does not list" in said


def test_labels_are_compared_in_nfc_and_those_that_differ_in_capitals_are_said(tmp_path, capsys):
    for name, label in (("a", "gr\u00fcn"), ("b", "gru\u0308n "), ("c", "Gr\u00fcn")):
        save_image(tmp_path / f"{name}.png")
        labelme(tmp_path / f"{name}.json", (label, "polygon", corners(1, 1, 5, 5), {}), image=f"{name}.png")
    said = rasterize(capsys, tmp_path)[0]
    assert "0 background, 1 Gr\u00fcn, 2 gr\u00fcn\n" in said
    assert "classes that differ in capital letters alone, kept apart: 2, the first: Gr\u00fcn" in said


def test_an_image_that_is_gone_is_not_taken_for_one_of_the_same_name_elsewhere(tmp_path, capsys):
    for name in ("A/0", "A/1", "A/2", "B/0"):
        save_image(tmp_path / "labelme" / f"{name}.jpg")
    for name in ("A/0", "B/2"):  # the image of the second is gone
        labelme(tmp_path / "labelme" / f"{name}.json", ("leaf", "polygon", corners(1, 1, 5, 5), {}))
    text, masks = rasterize(capsys, tmp_path / "labelme")
    assert masks.keys() == {"A/0.png"} and "that are not there: 1, the first: 2.jpg" in text
    (tmp_path / "labelme" / "A" / "0.jpg").unlink()  # now no image lies where its annotations say
    text, masks = rasterize(capsys, tmp_path / "labelme")
    assert masks.keys() == {"A/0.png", "A/2.png", "B/0.png"} and "images found by their file name alone: 2, the first: B/0 for 0.jpg" in text


def test_coco_images_found_by_their_file_name_alone_are_told(tmp_path, capsys):
    for name in ("train/0", "val/1"):
        save_image(tmp_path / f"{name}.jpg")
    rows = [thing(index, 1, [flat(0, 0, 4, 4)]) for index in (0, 1)]
    coco(tmp_path / "annotations" / "train.json", rows, [photo(index, f"{index}.jpg") for index in (0, 1)])
    text, masks = rasterize(capsys, tmp_path)
    assert masks.keys() == {"train/0.png", "val/1.png"} and "images found by their file name alone: 1, the first: val/1 for 1.jpg" in text


def test_coco_files_are_of_the_folders_called_as_they(tmp_path, capsys):
    for half, left in (("train", 2), ("val", 5)):
        save_image(tmp_path / half / "a.jpg")
        coco(tmp_path / "annotations" / f"{half}.json", [thing(0, 1, [flat(left, 2, 9, 4)])], [photo(0, "a.jpg")])
    _, masks = rasterize(capsys, tmp_path)
    assert all(np.array_equal(masks[f"{half}/a.png"], drawn((left, 2, 9, 4, 1))) for half, left in (("train", 2), ("val", 5)))


def test_a_track_of_a_video_is_refused(tmp_path, capsys):
    write(tmp_path / "annotations.xml", '<annotations>\n<track id="0"></track><image id="0" width="2"></image></annotations>')
    text, _ = rasterize(capsys, tmp_path, code=1)
    assert "it holds the tracks of a video; export the task as CVAT for images 1.1" in text


def test_polygons_agree_with_pycocotools():
    coco_mask = pytest.importorskip("pycocotools.mask")
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    radius = 60 + 25 * np.random.default_rng(0).standard_normal(40).clip(-1, 1)
    points = np.stack([100 + radius * np.cos(angles), 90 + radius * np.sin(angles)], 1)
    area, row, column = polygons([points.tolist()], 180, 220)
    ours = np.zeros((180, 220), bool)
    ours[row : row + area.shape[0], column : column + area.shape[1]] = area
    theirs = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([points.ravel().tolist()], 180, 220))).astype(bool)
    assert (ours ^ theirs).sum() < 0.015 * theirs.sum()


BROKEN = {  # format -> a file, what is wrong with it, and the words for it
    "LabelMe": ("b.json", '{"shapes": [{"label": "leaf", "points": []}], "imagePath": 1', "Expecting"),
    "COCO": ("b.json", '{"images": [{}], "annotations": [], "categories": [], "segmentation": 1}', "'file_name' is missing"),
    "YOLO": ("labels/b.txt", "7 0.1 0.1 0.5 0.1 0.5 0.5\n", "it has the class 7, and only 0 leaf are named"),
    "Supervisely": ("ann/b.jpg.json", '{"objects": [{"bitmap": 1}]}', "'classTitle' is missing"),
    "CVAT": ("annotations.xml", '<annotations>\n<image name="b.jpg" width="1">', "no element found"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_file_that_cannot_be_read_is_named(kind, tmp_path, capsys):
    save_image(tmp_path / "images" / "b.jpg")
    write(tmp_path / "data.yaml", "names: [leaf]")
    name, content, words = BROKEN[kind]
    write(tmp_path / name, content)
    text, _ = rasterize(capsys, tmp_path, code=1)
    assert text.startswith(f"s4former rasterize: no annotation of {tmp_path} can be read; files")
    assert f"left out: 1, the first: {tmp_path / name} (" in text and words in text


def test_one_bad_file_among_good_ones_is_left_out(tmp_path, capsys):
    for name in "abcd":
        save_image(tmp_path / f"{name}.jpg")
        labelme(tmp_path / f"{name}.json", ("leaf", "polygon", corners(3, 2, 12, 10), {}))
    labelme(tmp_path / "b.json", ("leaf", "polygon", [[1, 2], [3, "x"], [4, 4]], {}))
    labelme(tmp_path / "c.json", ("leaf", "mask", [[1, 2], [3, 4]], {"mask": "AAAA"}))
    write(tmp_path / "d.json", (tmp_path / "d.json").read_text()[:-3])
    text, masks = rasterize(capsys, tmp_path)
    assert masks.keys() == {"a.png"}
    assert f"images with something that cannot be drawn, left without a mask: 2, the first: {tmp_path}/b.jpg (could not" in text
    assert f"files that cannot be read, left out: 1, the first: {tmp_path}/d.json (Expecting" in text


def test_masks_are_upright_as_their_photo_and_other_sizes_are_left_out(tmp_path, capsys):
    for name, turn in (("raw.jpg", 6), ("upright.jpg", 6), ("other.jpg", 1)):
        exif = Image.Exif()
        exif[0x0112] = turn
        Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(tmp_path / name, exif=exif)
    shape = ("leaf", "polygon", corners(0, 0, 4, 2), {})
    labelme(tmp_path / "raw.json", shape)
    labelme(tmp_path / "upright.json", shape, height=WIDTH, width=HEIGHT)
    labelme(tmp_path / "other.json", shape, height=8, width=12)
    text, masks = rasterize(capsys, tmp_path)
    upright = np.zeros((WIDTH, HEIGHT), np.uint8)
    upright[:2, :4] = 1
    assert np.array_equal(masks["upright.png"], upright)
    assert np.array_equal(masks["raw.png"], np.rot90(drawn((0, 0, 4, 2, 1)), -1)) and masks.keys() == {"raw.png", "upright.png"}
    assert "are turned with their photo (EXIF): 1, the first: raw.jpg" in text
    assert f"left without a mask: 1, the first: {tmp_path}/other.jpg (24x16, annotated as 12x8)" in text


def test_masks_are_not_overwritten_and_old_ones_are_named(tmp_path, capsys):
    save_image(tmp_path / "a.jpg")
    labelme(tmp_path / "a.json", ("leaf", "polygon", corners(3, 2, 12, 10), {}))
    rasterize(capsys, tmp_path)
    text, _ = rasterize(capsys, tmp_path, code=1)
    assert text == (
        f"s4former rasterize: 1 mask is there already, the first: {tmp_path}/masks/a.png; add --overwrite to draw them anew, or"
        " give another -o\n"
    )
    (tmp_path / "masks" / "a.png").rename(tmp_path / "masks" / "old.png")
    text, masks = rasterize(capsys, tmp_path)
    assert masks.keys() == {"a.png", "old.png"} and f"were not drawn now: 1, the first: {tmp_path}/masks/old.png" in text


@pytest.mark.parametrize("kind", ["none", "no folder", "empty", "two sizes", "no names"])
def test_what_cannot_be_drawn_at_all_is_one_sentence(kind, tmp_path, capsys):
    save_image(tmp_path / "images" / "a.jpg")
    root, words = tmp_path, f"{tmp_path} holds no annotations that can be drawn; if they are of COCO, LabelMe, "
    if kind == "no folder":
        root, words = tmp_path / "x", f"there is no folder {tmp_path}/x; give the one that holds the annotations and their images"
    if kind == "empty":
        labelme(tmp_path / "images" / "a.json")
        words = "no mask was written; images without an object, left without a mask (--empty: all the class background): 1, "
    if kind == "two sizes":
        labelme(tmp_path / "a.json")
        labelme(tmp_path / "b.json", image="a.jpg", height=3)
        words = "two files of annotations draw on a.jpg, and say that it has two sizes; leave one of them out"
    if kind == "no names":
        write(tmp_path / "labels" / "a.txt", "0 0.1 0.1 0.5 0.1 0.5 0.5")
        words = f"there is no data.yaml in {tmp_path} that names the classes; write one with a line  names:"
    assert words in rasterize(capsys, root, code=1)[0]


@pytest.mark.parametrize("tree", ["flat", "nested", "halves"])
def test_new_config_pairs_the_masks_at_once(tree, tmp_path, capsys):
    root, where = tmp_path / "photos", {"flat": ("", ""), "nested": ("ds/img/", "ds/img/"), "halves": ("train/", "valid/")}[tree]
    for index, place in enumerate((where[0], where[0], where[1])):
        save_photo(root / f"{place}{index}.jpg", index)
        labelme(root / f"{place}{index}.json", ("leaf", "polygon", corners(3, 2, 12, 10 + index), {}))
    rasterize(capsys, root)
    new_config([str(root), "-o", str(tmp_path / "mine.json"), "--encoder", "shapes"])
    data = json.loads((tmp_path / "mine.json").read_text())["data"]
    assert data["classes"] == ["background", "leaf"] and "id_map" not in data
    found = [(tmp_path / f"mine.{part}.txt").read_text().splitlines() for part in ("labeled", "validation")]
    assert [len(lines) for lines in found] == [2, 1] and all("\tmasks/" in line for lines in found for line in lines)


def test_every_mask_is_read_as_a_class_of_the_config(tmp_path, capsys):
    """The ids that the masks state are the classes in their order, so that a config needs no id map."""
    save_image(tmp_path / "images" / "a.jpg")
    labelme(tmp_path / "images" / "a.json", ("leaf", "polygon", corners(3, 2, 12, 10), {}))
    rasterize(capsys, tmp_path)
    mask = read_mask(encoded(tmp_path / "masks" / "a.png"), Data(classes=("background", "leaf")), 2)
    assert np.array_equal(mask, drawn((3, 2, 12, 10, 1)))
