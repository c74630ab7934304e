"""The trees that annotation tools and data sets leave, drawn small: what new-config finds in each, and that it trains on it."""

import json
from itertools import count

import numpy as np
import pytest
from folders import HEIGHT, ids, save_photo, write
from PIL import Image

from s4former.config import load
from s4former.data.masks import read_pair
from s4former.data.sources import check_masks, load_sources
from s4former.new_config.command import main
from s4former.rasterize.command import main as rasterize

NAMES = ("one", "two", "three", "four", "five")
COLOURS = {0: (0, 0, 0), 1: (128, 64, 128), 2: (70, 70, 70), 255: (7, 7, 7)}
SEEDS = count()


def photo(root, *names):
    for name in names:
        save_photo(root / name, next(SEEDS))


def mask(root, *names, raw=(0, 1, 2, 255), colours=None):
    """Masks in which the ids of `ids()` are written as others, or as colours."""
    lookup = dict(zip((0, 1, 2, 255), raw))
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if colours:
            pixels = np.array([[colours[value] for value in row] for row in ids().tolist()], np.uint8)
        else:
            pixels = np.vectorize(lookup.get)(ids()).astype(np.uint8)
        Image.fromarray(pixels).save(path)


def text(root, name, content):
    write(root / name, *([json.dumps(content)] if isinstance(content, dict | list) else content))


# ---- the trees: each function draws one and returns what is to be found: pairs by part, the pool, names, and more words said


def ours(root):
    photo(root, "labeled/images/a.jpg", "labeled/images/b.jpg", "unlabeled/images/c.jpg", "val/images/d.jpg")
    mask(root, "labeled/masks/a.png", "labeled/masks/b.png", "val/masks/d.png")
    text(root, "classes.txt", NAMES[:3])
    pairs = [("labeled/images/a.jpg", "labeled/masks/a.png"), ("labeled/images/b.jpg", "labeled/masks/b.png")]
    return pairs, [("val/images/d.jpg", "val/masks/d.png")], ["unlabeled/images/c.jpg"], NAMES[:3]


def mmsegmentation(root):
    photo(root, *(f"img_dir/{name}.jpg" for name in ("train/a", "train/b", "train/c", "val/d")))
    mask(root, *(f"ann_dir/{name}.png" for name in ("train/a", "train/b", "val/d")))
    pairs = [(f"img_dir/train/{name}.jpg", f"ann_dir/train/{name}.png") for name in "ab"]
    return pairs, [("img_dir/val/d.jpg", "ann_dir/val/d.png")], ["img_dir/train/c.jpg"], ("class 0", "class 1", "class 2")


def labelme2voc(root, masks="SegmentationClass"):
    photo(root, *(f"JPEGImages/{name}.jpg" for name in "abc"), *(f"SegmentationClassVisualization/{name}.jpg" for name in "ab"))
    mask(root, *(f"{masks}/{name}.png" for name in "ab"))
    write(root / "SegmentationClass" / "a.npy")
    text(root, "class_names.txt", ("__ignore__", "_background_", "leaf", "bud"))
    return [(f"JPEGImages/{name}.jpg", f"{masks}/{name}.png") for name in "ab"], [], ["JPEGImages/c.jpg"], ("_background_", "leaf", "bud")


def labelme2voc_with_npy(root):
    return labelme2voc(root, "SegmentationClassPNG")


def voc(root):
    names = ("2007_000032", "2007_000033", "2007_000039", "2007_000042")
    photo(root, *(f"JPEGImages/{name}.jpg" for name in names))
    mask(root, *(f"{kind}/{name}.png" for name in names[:3] for kind in ("SegmentationClass", "SegmentationObject")))
    write(root / "ImageSets/Segmentation/train.txt", *names[:2])
    write(root / "ImageSets/Segmentation/val.txt", names[2])
    pairs = [(f"JPEGImages/{name}.jpg", f"SegmentationClass/{name}.png") for name in names[:3]]
    return pairs[:2], pairs[2:], [f"JPEGImages/{names[3]}.jpg"], ("background", "aeroplane", "bicycle")


def cvat(root):
    photo(root, *(f"JPEGImages/{name}.jpg" for name in "abc"))
    mask(root, *(f"{kind}/{name}.png" for name in "ab" for kind in ("SegmentationClass", "SegmentationObject")), colours=COLOURS)
    lines = ("# label:color_rgb:parts:actions", "background:0,0,0::", "road:128,64,128::", "house:70,70,70::", "ignore:7,7,7::")
    text(root, "labelmap.txt", lines)
    write(root / "ImageSets/Segmentation/default.txt", "a", "b")
    pairs = [(f"JPEGImages/{name}.jpg", f"SegmentationClass/{name}.png") for name in "ab"]
    return pairs, [], ["JPEGImages/c.jpg"], ("background", "road", "house"), "id 3 is taken as no label"


def cityscapes(root, kind="labelIds", raw=(7, 8, 33, 0)):
    stems = [f"{place}_{number:06d}_000019" for place, number in (("train/jena/jena", 1), ("train/ulm/ulm", 2), ("train/ulm/ulm", 3), ("val/bonn/bonn", 4), ("test/bern/bern", 5))]  # fmt: skip
    photo(root, *(f"leftImg8bit/{stem}_leftImg8bit.png" for stem in stems))
    for stem in (*stems[:2], *stems[3:]):
        mask(root, f"gtFine/{stem}_gtFine_{kind}.png", raw=raw)
        photo(root, f"gtFine/{stem}_gtFine_color.png", f"gtFine/{stem}_gtFine_instanceIds.png")
        text(root, f"gtFine/{stem}_gtFine_polygons.json", {"imgHeight": HEIGHT, "objects": []})
    pairs = [(f"leftImg8bit/{stem}_leftImg8bit.png", f"gtFine/{stem}_gtFine_{kind}.png") for stem in stems]
    said = "test/ is left alone, since val/ is there: 1 image with masks"
    return pairs[:2], pairs[3:4], [f"leftImg8bit/{stems[2]}_leftImg8bit.png"], ("road", "sidewalk", "building"), said


def cityscapes_train_ids(root):
    return cityscapes(root, "labelTrainIds", (0, 1, 18, 255))


def drives(root):
    names = ("train/0/a", "train/1/b", "train/1/c", "val/2/d")
    photo(root, *(f"leftImg8bit/{name}_image.jpg" for name in names))
    mask(root, *(f"gtFine/{name}{kind}_label.png" for name in (*names[:2], names[3]) for kind in ("", "_inst")))
    pairs = [(f"leftImg8bit/{name}_image.jpg", f"gtFine/{name}_label.png") for name in names]
    return pairs[:2], pairs[3:], [f"leftImg8bit/{names[2]}_image.jpg"], ("class 0", "class 1", "class 2")


def ade20k(root):
    names = [f"{place}_{number:08d}" for place, number in (("training/ADE_train", 1), ("training/ADE_train", 2), ("validation/ADE_val", 1))]
    photo(root, *(f"images/{name}.jpg" for name in names))
    mask(root, *(f"annotations/{name}.png" for name in names), raw=(1, 2, 3, 0))
    rows = ("1\t0.1576\t11664\t1172\t1\twall", "2\t0.1072\t6046\t612\t1\tbuilding, edifice", "3\t0.0878\t8265\t796\t1\tsky")
    text(root, "objectInfo150.txt", ("Idx\tRatio\tTrain\tVal\tStuff\tName", *rows))
    pairs = [(f"images/{name}.jpg", f"annotations/{name}.png") for name in names]
    return pairs[:2], pairs[2:], [], ("wall", "building", "sky"), "id 0 is taken as no label (other, in ADE20K)"


def mapillary(root, place="v2.0/labels"):
    photo(root, *(f"{name}.jpg" for name in ("training/images/a", "training/images/b", "validation/images/c", "testing/images/d")))
    mask(root, *(f"{part}/{place}/{name}.png" for part, name in (("training", "a"), ("training", "b"), ("validation", "c"))), raw=(0, 1, 2, 3))
    mask(root, *(f"{part}/v2.0/instances/{name}.png" for part, name in (("training", "a"), ("validation", "c"))))
    labels = [{"readable": name, "color": [1, 2, 3], "instances": True} for name in ("Bird", "Curb", "Lane", "Unlabeled")]
    text(root, "config_v2.0.json", {"labels": labels, "version": "2.0"})
    pairs = [(f"training/images/{name}.jpg", f"training/{place}/{name}.png") for name in "ab"]
    held = [("validation/images/c.jpg", f"validation/{place}/c.png")]
    return pairs, held, ["testing/images/d.jpg"], ("Bird", "Curb", "Lane"), "id 3 is taken as no label"


def mapillary_1(root):
    return mapillary(root, "labels")


def nnunet(root):
    photo(root, *(f"imagesTr/{name}_000{channel}.png" for name in ("leaf_001", "leaf_002") for channel in (0, 1)), "imagesTs/leaf_003_0000.png")
    mask(root, "labelsTr/leaf_001.png", "labelsTr/leaf_002.png", raw=(0, 1, 2, 3))
    labels = {"background": 0, "leaf": 1, "bud": 2, "ignore": 3}
    text(root, "dataset.json", {"channel_names": {"0": "R"}, "labels": labels, "numTraining": 2, "file_ending": ".png"})
    pairs = [(f"imagesTr/leaf_00{number}_0000.png", f"labelsTr/leaf_00{number}.png") for number in (1, 2)]
    return pairs, [], ["imagesTs/leaf_003_0000.png"], ("background", "leaf", "bud"), "id 3 is taken as no label"


def segnet(root):
    photo(root, *(f"{name}.png" for name in ("train/a", "train/b", "val/c", "test/d")))
    mask(root, *(f"{name}.png" for name in ("trainannot/a", "trainannot/b", "valannot/c", "testannot/d")), raw=(0, 1, 2, 11))
    pairs = [(f"train/{name}.png", f"trainannot/{name}.png") for name in "ab"]
    said = "id 11 is taken as no label (void, in SegNet's folders of CamVid)"
    return pairs, [("val/c.png", "valannot/c.png")], [], ("class 0", "class 1", "class 2"), said


def camvid(root):
    photo(root, *(f"{name}.png" for name in ("train/a", "train/b", "val/c", "train/u")))
    mask(root, *(f"{name}_L.png" for name in ("train_labels/a", "train_labels/b", "val_labels/c")), colours=COLOURS)
    text(root, "class_dict.csv", ("name,r,g,b", "Road,128,64,128", "Building,70,70,70", "Sky,0,0,0", "Void,7,7,7"))
    pairs = [(f"train/{name}.png", f"train_labels/{name}_L.png") for name in "ab"]
    return pairs, [("val/c.png", "val_labels/c_L.png")], ["train/u.png"], ("Road", "Building", "Sky"), "id 3 is taken as no label"


def roboflow(root):
    names = [f"{part}/IMG_{number}_jpg.rf.0a1b2c3d4e5f678{number}" for number, part in enumerate(("train", "train", "valid", "test"))]
    photo(root, *(f"{name}.jpg" for name in names), "train/IMG_9_jpg.rf.99.jpg")
    mask(root, *(f"{name}_mask.png" for name in names))
    for part in ("train", "valid", "test"):
        text(root, f"{part}/_classes.csv", ("Pixel Value, Class", *(f"{index}, {name}" for index, name in enumerate(NAMES[:3]))))
    pairs = [(f"{name}.jpg", f"{name}_mask.png") for name in names]
    return pairs[:2], pairs[2:3], ["train/IMG_9_jpg.rf.99.jpg"], NAMES[:3], "test/ is left alone, since valid/ is there"


def supervisely_masks(root):
    photo(root, *(f"set/img/{name}.jpg" for name in "abc"))
    mask(root, *(f"set/masks_machine/{name}.png" for name in "ab"), raw=(0, 1, 2, 0))
    mask(root, *(f"set/masks_human/{name}.png" for name in "ab"), colours=COLOURS)
    text(root, "meta.json", {"classes": [{"title": "leaf", "color": "#FF0000"}, {"title": "bud", "color": "#00FF00"}], "tags": []})
    text(root, "obj_class_to_machine_color.json", {"leaf": [2, 2, 2], "bud": [1, 1, 1]})
    pairs = [(f"set/img/{name}.jpg", f"set/masks_machine/{name}.png") for name in "ab"]
    return pairs, [], ["set/img/c.jpg"], ("background", "bud", "leaf")


def dermatology(root):
    photo(root, *(f"ISIC_{number}.jpg" for number in (1, 2, 3)))
    mask(root, *(f"ISIC_{number}_segmentation.png" for number in (1, 2)), raw=(0, 255, 0, 0))
    return [(f"ISIC_{n}.jpg", f"ISIC_{n}_segmentation.png") for n in (1, 2)], [], ["ISIC_3.jpg"], ("background", "foreground")


def eyes(root):
    photo(root, *(f"{number}_training.tif" for number in (21, 22, 23)))
    mask(root, *(f"{number}_manual1.gif" for number in (21, 22)), *(f"{number}_training_mask.gif" for number in (21, 22)), raw=(0, 255, 0, 0))
    pairs = [(f"{number}_training.tif", f"{number}_manual1.gif") for number in (21, 22)]
    return pairs, [], ["23_training.tif"], ("class 0", "class 1")


def drive(root):
    photo(root, *(f"training/images/{number}_training.tif" for number in (21, 22)), "test/images/01_test.tif")
    mask(root, *(f"training/1st_manual/{number}_manual1.gif" for number in (21, 22)), raw=(0, 255, 0, 0))
    mask(root, *(f"training/mask/{number}_training_mask.gif" for number in (21, 22)), "test/mask/01_test_mask.gif")  # of the field of view
    pairs = [(f"training/images/{number}_training.tif", f"training/1st_manual/{number}_manual1.gif") for number in (21, 22)]
    return pairs, [], ["test/images/01_test.tif"], ("class 0", "class 1")


def cars(root):
    photo(root, *(f"train/{name}.jpg" for name in "abc"))
    mask(root, *(f"train_masks/{name}_mask.gif" for name in "ab"), raw=(0, 255, 0, 0))
    pairs = [(f"train/{name}.jpg", f"train_masks/{name}_mask.gif") for name in "ab"]
    return pairs, [], ["train/c.jpg"], ("class 0", "class 1")


def pets(root):
    photo(root, *(f"images/{name}.jpg" for name in ("Abyssinian_1", "pug_2", "pug_3")))
    mask(root, *(f"annotations/trimaps/{name}.png" for name in ("Abyssinian_1", "pug_2")), raw=(2, 1, 1, 3))
    write(root / "annotations/xmls/pug_2.xml", "<annotation/>")
    pairs = [(f"images/{name}.jpg", f"annotations/trimaps/{name}.png") for name in ("Abyssinian_1", "pug_2")]
    said = "id 3 is taken as no label (the border, in trimaps of the Oxford pets)"
    return pairs, [], ["images/pug_3.jpg"], ("pet", "background"), said


def deepglobe(root):
    photo(root, *(f"{number}_sat.jpg" for number in (1, 2, 3)))
    mask(root, *(f"{number}_mask.png" for number in (1, 2)), colours=COLOURS)
    text(root, "class_dict.csv", ("name,r,g,b", "urban,0,0,0", "forest,128,64,128", "water,70,70,70", "unknown,7,7,7"))
    pairs = [(f"{number}_sat.jpg", f"{number}_mask.png") for number in (1, 2)]
    return pairs, [], ["3_sat.jpg"], ("urban", "forest", "water"), "id 3 is taken as no label"


def loveda(root):
    for part, place in (("Train", "Urban"), ("Train", "Rural"), ("Val", "Urban")):
        photo(root, f"{part}/{place}/images_png/1.png")
        mask(root, f"{part}/{place}/masks_png/1.png", raw=(1, 2, 3, 0))
    photo(root, "Test/Urban/images_png/5.png")
    pairs = [(f"{place}/images_png/1.png", f"{place}/masks_png/1.png") for place in ("Train/Rural", "Train/Urban", "Val/Urban")]
    said = "id 0 is taken as no label (no data, in LoveDA)"
    return pairs[:2], pairs[2:], ["Test/Urban/images_png/5.png"], ("background", "building", "road"), said


def potsdam(root):
    photo(root, *(f"top_potsdam_2_{number}_{band}.tif" for number in (10, 11, 12) for band in ("RGB", "IRRG")))
    mask(root, *(f"top_potsdam_2_{number}_label.tif" for number in (10, 11)), colours=COLOURS)
    text(root, "palette.json", {"clutter": "#000000", "roof": "#804080", "tree": "#464646", "void": "#070707"})
    pairs = [(f"top_potsdam_2_{number}_RGB.tif", f"top_potsdam_2_{number}_label.tif") for number in (10, 11)]
    return pairs, [], ["top_potsdam_2_12_RGB.tif"], ("clutter", "roof", "tree")


def potsdam_folders(root):
    photo(root, *(f"2_Ortho_RGB/top_potsdam_2_{number}_RGB.tif" for number in (10, 11, 12)), "3_Ortho_IRRG/top_potsdam_2_10_IRRG.tif")
    mask(root, *(f"5_Labels_all/top_potsdam_2_{number}_label.tif" for number in (10, 11)), colours=COLOURS)
    text(root, "palette.json", {"clutter": "#000000", "roof": "#804080", "tree": "#464646", "void": "#070707"})
    pairs = [(f"2_Ortho_RGB/top_potsdam_2_{number}_RGB.tif", f"5_Labels_all/top_potsdam_2_{number}_label.tif") for number in (10, 11)]
    return pairs, [], ["2_Ortho_RGB/top_potsdam_2_12_RGB.tif"], ("clutter", "roof", "tree")


def idd(root, kind="labellevel3Ids"):
    photo(root, *(f"leftImg8bit/{name}_leftImg8bit.png" for name in ("train/0/000001", "train/0/000002", "train/1/000003", "val/2/000001")))
    mask(root, *(f"gtFine/{name}_gtFine_{kind}.png" for name in ("train/0/000001", "train/0/000002", "val/2/000001")))
    for name in ("train/0/000001", "train/0/000002"):
        text(root, f"gtFine/{name}_gtFine_polygons.json", {"imgHeight": 16, "objects": []})
    pairs = [(f"leftImg8bit/train/0/00000{n}_leftImg8bit.png", f"gtFine/train/0/00000{n}_gtFine_{kind}.png") for n in (1, 2)]
    val = [("leftImg8bit/val/2/000001_leftImg8bit.png", f"gtFine/val/2/000001_gtFine_{kind}.png")]
    return pairs, val, ["leftImg8bit/train/1/000003_leftImg8bit.png"], ("class 0", "class 1", "class 2")


def idd_ids(root):
    return idd(root, "labelids")


TREES = (
    ours, mmsegmentation, labelme2voc, labelme2voc_with_npy, voc, cvat, cityscapes, cityscapes_train_ids, drives, ade20k, mapillary, mapillary_1,
    nnunet, segnet, camvid, roboflow, supervisely_masks, dermatology, eyes, drive, cars, pets, deepglobe, loveda, potsdam,
    potsdam_folders, idd, idd_ids,
)  # fmt: skip


@pytest.mark.parametrize("tree", TREES, ids=lambda tree: tree.__name__)
def test_a_tree_becomes_its_pairs_its_pool_and_its_names(tree, tmp_path, capsys):
    root, output = tmp_path / "set", tmp_path / "mine.json"
    labeled, validation, pool, names, *said = tree(root)
    assert main([str(root), "-o", str(output)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    config = load(output)
    sources = load_sources(config.data)
    found = {
        part: sorted((row["image"]["path"], row["mask"]["path"]) for row in getattr(sources, part)) for part in ("labeled", "validation")
    }
    expected = {"labeled": labeled, "validation": validation}
    if not validation:  # one of the labelled was held out
        assert len(found["validation"]) == 1
        found, expected = {"all": sorted(sum(found.values(), []))}, {"all": labeled}
    assert found == {part: sorted((str(root / image), str(root / mask)) for image, mask in pairs) for part, pairs in expected.items()}
    images = {row["image"]["path"] for part in ("labeled", "validation", "unlabeled") for row in getattr(sources, part)}
    assert images - {image for rows in found.values() for image, _ in rows} == {str(root / name) for name in pool}
    assert sources.classes[: len(names)] == names and all(words in printed for words in said)
    check_masks(sources, config.data)
    classes = read_pair(sources.labeled[0], config.data, len(sources.classes))[1]
    assert (classes[:, 0] == 255).all() == (tree not in (supervisely_masks, dermatology, eyes, drive, cars)), "what is drawn as no label is none"


# ---- what is no tree of masks


COCO = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[1, 1, 5, 1, 5, 5]]}], "categories": [{"id": 1, "name": "leaf"}]}  # fmt: skip
OUTLINE = "0 0.1 0.1 0.5 0.1 0.5 0.5 0.1 0.5"
POLYGONS = {
    "Roboflow COCO": ("COCO", ["train/a.jpg", "valid/b.jpg"], "train/_annotations.coco.json", COCO),
    "COCO": ("COCO", ["train2017/a.jpg", "val2017/b.jpg"], "annotations/instances_train2017.json", COCO),
    "YOLO": ("YOLO", ["images/train/a.jpg", "images/val/b.jpg"], "labels/train/a.txt", (OUTLINE,)),
    "LabelMe": ("LabelMe", ["a.jpg", "b.jpg"], "a.json", {"shapes": [], "imagePath": "a.jpg"}),
    "Supervisely": ("Supervisely", ["set/img/a.jpg"], "set/ann/a.jpg.json", {"objects": [{"classTitle": "leaf", "points": {"exterior": []}}]}),
    "CVAT": ("CVAT", ["images/a.jpg"], "annotations.xml", ('<annotations><image id="0" name="a.jpg" width="24" height="16"/></annotations>',)),
}


@pytest.mark.parametrize("kind", POLYGONS)
def test_a_tree_of_polygons_is_told_the_command_that_draws_them(kind, tmp_path, capsys):
    name, photos, file, content = POLYGONS[kind]
    photo(tmp_path / "set", *photos)
    text(tmp_path / "set", file, content)
    assert main([str(tmp_path / "set"), "-o", str(tmp_path / "mine.json")]) == 1
    assert f"holds annotations of {name} and no masks; draw them first: s4former rasterize {tmp_path / 'set'}, then this again" in capsys.readouterr().err


def test_what_rasterize_draws_is_found(tmp_path, capsys):
    root = tmp_path / "set"
    photo(root, "images/train/a.jpg", "images/train/b.jpg", "images/train/c.jpg", "images/val/d.jpg")
    for name in ("train/a", "train/b", "val/d"):
        text(root, f"labels/{name}.txt", (OUTLINE,))
    text(root, "data.yaml", ("names: [leaf]",))
    assert rasterize([str(root)]) == 0
    capsys.readouterr()
    assert main([str(root), "-o", str(tmp_path / "mine.json")]) == 0
    assert "not used" not in capsys.readouterr().out
    sources = load_sources(load(tmp_path / "mine.json").data)
    assert [len(sources.labeled), len(sources.unlabeled), len(sources.validation), sources.classes] == [2, 1, 1, ("background", "leaf")]


def test_the_files_that_masks_were_drawn_of_are_used(tmp_path, capsys):
    root = tmp_path / "set"
    photo(root, *(f"{name}.png" for name in "abc"))
    leaf = {"label": "leaf", "points": [[1, 1], [9, 1], [9, 9]], "shape_type": "polygon"}
    for name in "abc":
        text(root, f"{name}.json", {"shapes": [leaf], "imagePath": f"{name}.png", "imageHeight": HEIGHT, "imageWidth": 24})
    assert rasterize([str(root)]) == 0
    capsys.readouterr()
    assert main([str(root), "-o", str(tmp_path / "mine.json")]) == 0
    assert "not used" not in capsys.readouterr().out


def test_volumes_and_regions_of_nnunet_are_told_what_to_do(tmp_path, capsys):
    root = tmp_path / "set"
    for name in ("imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz"):
        text(root, name, ())
    assert main([str(root), "-o", str(tmp_path / "mine.json")]) == 1
    said = capsys.readouterr().err
    assert "not used: 2 files (.nii.gz), the first:" in said and "save the slices as PNG, in nnU-Net's tree imagesTr/CASE_0000.png and labelsTr/CASE.png" in said
    nnunet(root)
    text(root, "dataset.json", {"labels": {"background": 0, "leaf with buds": [1, 2], "bud": 2, "ignore": 3}})
    assert main([str(root), "-o", str(tmp_path / "mine.json")]) == 1
    assert "of regions, lists of several ids, name each id by itself, here or with --classes 0=background 1=edema" in capsys.readouterr().err
    assert main([str(root), "-o", str(tmp_path / "mine.json"), "--classes", "0=background", "1=leaf", "2=bud", "3=ignore"]) == 0


def told_pairs(tmp_path, *arguments):
    assert main([*arguments, "-o", str(tmp_path / "mine.json")]) == 0
    sources = load_sources(load(tmp_path / "mine.json").data)
    rows = [row for part in ("labeled", "validation") for row in getattr(sources, part)]
    pairs = {(row["image"]["path"], row["mask"]["path"]) for row in rows}
    below = len(f"{tmp_path}/")
    return {(image[below:], mask[below:]) for image, mask in pairs}, [row["image"]["path"][below:] for row in sources.unlabeled]


def strange(tmp_path):
    photo(tmp_path, *(f"shots/day1/{name}.jpg" for name in "abc"))
    mask(tmp_path, *(f"drawn/day1-{name}-final.png" for name in "ab"))


@pytest.mark.parametrize("start", ["", "whole", "folder"])
def test_patterns_pair_by_the_text_that_stands_for_the_star(start, tmp_path, monkeypatch):
    strange(tmp_path)
    monkeypatch.chdir(tmp_path)
    place = f"{tmp_path}/" if start == "whole" else ""
    folder = [str(tmp_path)] if start == "folder" else []
    pairs, pool = told_pairs(tmp_path, *folder, "--images", f"{place}shots/*/*.jpg", "--masks", f"{place}drawn/*-*-final.png")
    assert pairs == {(f"shots/day1/{name}.jpg", f"drawn/day1-{name}-final.png") for name in "ab"} and pool == ["shots/day1/c.jpg"]


def test_patterns_over_one_folder_take_no_mask_for_a_photo(tmp_path, monkeypatch):
    photo(tmp_path, "in/a.png", "in/b.png", "in/c.png")
    mask(tmp_path, "in/a.final.png", "in/b.final.png")
    monkeypatch.chdir(tmp_path)
    pairs, pool = told_pairs(tmp_path, "--images", "in/*.png", "--masks", "in/*.final.png")
    assert pairs == {("in/a.png", "in/a.final.png"), ("in/b.png", "in/b.final.png")} and pool == ["in/c.png"]


@pytest.mark.parametrize("images, masks, said", [
    ("shots/a.jpg", "drawn/*.png", "--images is 'shots/a.jpg'; write a pattern in quotes, such as 'photos/*.jpg', with * for what both"),
    ("shots/*/*.jpg", "drawn/*.bmp", "--masks is 'drawn/*.bmp'; no image below "),
    ("shots/*/*.jpg", "drawn/*.png", "no image in "),
])  # fmt: skip
def test_patterns_that_pair_nothing_are_told_why(images, masks, said, tmp_path, capsys, monkeypatch):
    strange(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["--images", images, "--masks", masks]) == 1
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("name, between", [("pairs.txt", "\t"), ("pairs.csv", ",")])
def test_a_list_of_images_and_masks_is_taken_as_it_is(name, between, tmp_path, capsys):
    strange(tmp_path)
    lines = [between.join((f"shots/day1/{each}.jpg", f"{tmp_path}/drawn/day1-{each}-final.png")) for each in "ab"]
    write(tmp_path / name, *lines, "shots/day1/c.jpg")
    pairs, pool = told_pairs(tmp_path, str(tmp_path / name))
    assert pairs == {(f"shots/day1/{each}.jpg", f"drawn/day1-{each}-final.png") for each in "ab"} and pool == ["shots/day1/c.jpg"]
    write(tmp_path / name, between.join(("shots/day1/a.jpg", "drawn/z.png")))
    assert main([str(tmp_path / name), "-o", str(tmp_path / "other.json")]) == 1
    assert f"there is no file {tmp_path}/drawn/z.png; a line is an image, a tab, and its mask" in capsys.readouterr().err


def test_where_nothing_pairs_the_nearest_two_and_the_rule_are_told(tmp_path, capsys):
    photo(tmp_path, "set/shots/cat7.jpg", "set/shots/dog.jpg")
    mask(tmp_path, "set/drawn/cat7final.png")
    assert main([str(tmp_path / "set"), "-o", str(tmp_path / "mine.json")]) == 1
    said = capsys.readouterr().err
    assert f"no image in {tmp_path / 'set'} has a mask; the nearest are the image shots/cat7.jpg and the mask drawn/cat7final.png; a mask" in said
    assert f"new-config {tmp_path / 'set'} --images 'shots/*.jpg' --masks 'drawn/*final.png'" in said


def test_annotations_without_their_images_are_told(tmp_path, capsys):
    mask(tmp_path, "set/SegmentationClass/a.png", "set/SegmentationClass/b.png")
    assert main([str(tmp_path / "set"), "-o", str(tmp_path / "mine.json")]) == 1
    assert "has a mask; found: 2 masks, but not their images (folders: SegmentationClass/)" in capsys.readouterr().err


def label_studio(root):
    photo(root, *(f"images/0a1b2c3d-leaf {number}.jpg" for number in (1, 2, 3)))
    for task, annotation in ((11, 4), (12, 5), (12, 6)):
        for label, value in (("leaf blight", 1), ("stem", 2)):
            mask(root, f"png/task-{task}-annotation-{annotation}-by-1-tag-{label}-0.png", raw=tuple(255 * (each == value) for each in (0, 1, 2, 0)))
    mask(root, "png/task-12-annotation-5-by-1-tag-rust-0.png", raw=(0, 255, 255, 255))  # of an older annotation
    tasks = [{"id": 10 + number, "data": {"image": f"/data/upload/1/0a1b2c3d-leaf%20{number}.jpg"}} for number in (1, 2, 3)]
    text(root, "export.json", {"not": "tasks"})
    (root / "export.json").write_text(json.dumps(tasks))


def test_the_labels_of_label_studio_become_masks_beside_the_config(tmp_path, capsys):
    label_studio(tmp_path / "set")
    pairs, pool = told_pairs(tmp_path, str(tmp_path / "set"))
    images = [f"images/0a1b2c3d-leaf {number}" for number in (1, 2)]
    assert pairs == {(f"set/{name}.jpg", f"mine.masks/{name}.png") for name in images} and pool == ["set/images/0a1b2c3d-leaf 3.jpg"]
    config = load(tmp_path / "mine.json")
    sources = load_sources(config.data)
    assert sources.classes == ("background", "leaf blight", "rust", "stem")
    expected = np.array([0, 1, 3])[np.where(ids() == 255, 0, ids())]
    assert np.array_equal(read_pair(sources.labeled[0], config.data, 4)[1], expected)


def test_labels_of_label_studio_without_a_word_on_their_images_are_told_what_to_export(tmp_path, capsys):
    label_studio(tmp_path / "set")
    (tmp_path / "set/export.json").unlink()
    assert main([str(tmp_path / "set"), "-o", str(tmp_path / "mine.json")]) == 1
    assert "nothing says which image the tasks 11, 12 are: export them as JSON, too" in capsys.readouterr().err
    for number in (1, 2):
        (tmp_path / f"set/images/0a1b2c3d-leaf {number}.jpg").rename(tmp_path / f"set/images/task-1{number}.jpg")
    assert len(told_pairs(tmp_path, str(tmp_path / "set"))[0]) == 2


def test_a_config_that_is_refused_leaves_no_masks_behind(tmp_path, capsys):
    label_studio(tmp_path / "set")
    assert main([str(tmp_path / "set"), "-o", str(tmp_path / "mine.json"), "--classes", "a"]) == 1
    assert not list(tmp_path.glob("mine*"))


def test_pictures_in_other_folders_than_the_pairs_are_no_pool_and_are_counted(tmp_path, capsys):
    photo(tmp_path, *(f"set/in/{name}.jpg" for name in "abc"), "set/overlays/a.jpg", "set/pool/d.jpg")
    mask(tmp_path, "set/in/a_mask.png", "set/in/b_mask.png", "set/pool/d_mask.png")
    pairs, pool = told_pairs(tmp_path, str(tmp_path / "set"))
    assert pairs == {(f"set/in/{name}.jpg", f"set/in/{name}_mask.png") for name in "ab"} and pool == ["set/in/c.jpg", "set/pool/d.jpg"]
    said = " ".join(capsys.readouterr().out.split())
    assert "not used: 1 file (.jpg), the first: a.jpg; neither a photo of a part (such as unlabeled/) nor the mask of one" in said
    assert "1 mask of pool/ is not read: images there are the pool" in said
