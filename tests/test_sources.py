"""sources.py: every layout becomes the same three tables; what is wrong is said in one sentence."""

import hashlib
import json
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from s4former import config, sources
from s4former.config import Data
from s4former.sources import DataError, check_masks, load_sources, read_image, read_mask, read_pair

HEIGHT, WIDTH = 16, 24
PALETTE = [0, 0, 0, 128, 0, 0, 0, 128, 0] + [7] * 759


def save_image(path, height=HEIGHT, width=WIDTH):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(path)


def ids(height=HEIGHT, width=WIDTH):
    """Three classes and an ignored border."""
    mask = np.zeros((height, width), np.uint8)
    mask[4:8], mask[8:], mask[:, 0] = 1, 2, 255
    return mask


def save_mask(path, mask=None, palette=True):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(ids() if mask is None else mask)
    if palette:
        picture.putpalette(PALETTE)
    picture.save(path)


def write(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def cell(path):
    return {"path": str(path), "bytes": None}


@pytest.fixture
def root(tmp_path):
    """A data folder with six images a..f; a, b and f have masks."""
    root = tmp_path / "flowers"
    for name in "abcdef":
        save_image(root / "images" / f"{name}.jpg")
    for name in "abf":
        save_mask(root / "masks" / f"{name}.png")
    write(root / "labeled.txt", "b", "a")
    write(root / "test.txt", "f")
    return root


def data(root, **changes):
    values = {"source": "folder", "root": str(root), "labeled": "labeled.txt", "validation": "test.txt"}
    return Data(**{**values, "classes": ("ground", "leaf", "bud"), **changes})


def sentence(call, *arguments):
    with pytest.raises(DataError) as caught:
        call(*arguments)
    return str(caught.value)


# ---- one image, one mask


def test_palette_masks_keep_their_ids(tmp_path):
    save_mask(tmp_path / "m.png")
    with Image.open(tmp_path / "m.png") as picture:
        assert picture.mode == "P"
    assert np.array_equal(read_mask(cell(tmp_path / "m.png"), Data(), 3), ids())


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK"])
def test_every_eight_bit_image_becomes_rgb(tmp_path, mode):
    path = tmp_path / ("x.tif" if mode == "CMYK" else "x.png")
    Image.new("RGB", (WIDTH, HEIGHT)).convert(mode).save(path)
    image = read_image(cell(path))
    assert (image.mode, image.size) == ("RGB", (WIDTH, HEIGHT))


def test_a_palette_image_with_transparency_is_read_without_a_warning(tmp_path):
    picture = Image.new("P", (WIDTH, HEIGHT))
    picture.putpalette(PALETTE)
    picture.save(tmp_path / "x.png", transparency=b"\x00\x80")
    assert read_image(cell(tmp_path / "x.png")).mode == "RGB"


def test_sixteen_bit_images_are_refused(tmp_path):
    Image.fromarray(np.full((HEIGHT, WIDTH), 9000, np.uint16)).save(tmp_path / "x.png")
    assert sentence(read_image, cell(tmp_path / "x.png")) == (
        f"image {tmp_path}/x.png has more than 8 bits per channel (mode I;16); save it as 8-bit"
    )


def test_exif_orientation_turns_the_image_and_a_mask_that_stands_upright_fits(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (HEIGHT, WIDTH)).save(tmp_path / "x.jpg", exif=exif)
    save_mask(tmp_path / "x.png")
    row = {"image": cell(tmp_path / "x.jpg"), "mask": cell(tmp_path / "x.png"), "id": "x"}
    assert read_pair(row, Data(), 3)[0].size == (WIDTH, HEIGHT)
    assert sources.stated_size(row["image"]) == (HEIGHT, WIDTH)


def test_the_message_about_sizes_mentions_an_exif_orientation_that_may_be_the_cause(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "x.jpg", exif=exif)
    save_mask(tmp_path / "x.png")
    row = {"image": cell(tmp_path / "x.jpg"), "mask": cell(tmp_path / "x.png"), "id": "x"}
    assert sentence(read_pair, row, Data(), 3) == (
        f"image {tmp_path}/x.jpg is 16x24 and its mask {tmp_path}/x.png is 24x16 (width x height); both must have the"
        " same size, and the image is turned by its EXIF orientation"
    )


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\xff\xd8\xff\xe0 broken", b"\x89PNG\r\n\x1a\n broken"])
def test_a_broken_file_is_named(tmp_path, content):
    (tmp_path / "x.jpg").write_bytes(content)
    assert sentence(read_image, cell(tmp_path / "x.jpg")).startswith(f"image {tmp_path}/x.jpg cannot be read: ")


def test_a_file_cut_short_is_named(tmp_path):
    save_image(tmp_path / "x.jpg", 160, 240)
    (tmp_path / "x.jpg").write_bytes((tmp_path / "x.jpg").read_bytes()[:-200])
    assert sentence(read_image, cell(tmp_path / "x.jpg")).startswith(f"image {tmp_path}/x.jpg cannot be read: ")


def test_a_file_that_is_gone_is_named(tmp_path):
    assert sentence(read_image, cell(tmp_path / "x.jpg")) == f"image {tmp_path}/x.jpg does not exist"


def test_masks_in_colours_are_refused(tmp_path):
    save_image(tmp_path / "m.png")
    assert sentence(read_mask, cell(tmp_path / "m.png"), Data(), 3) == (
        f"mask {tmp_path}/m.png holds colours (mode RGB), not class ids; save it as a palette or grey PNG whose pixel"
        " values are the ids"
    )


def test_ids_beyond_the_classes_are_refused(tmp_path):
    mask = ids()
    mask[0, 1:3] = 3, 9
    save_mask(tmp_path / "m.png", mask, palette=False)
    assert sentence(read_mask, cell(tmp_path / "m.png"), Data(), 3) == (
        f"mask {tmp_path}/m.png has the ids 3, 9, but the 3 classes have ids 0 to 2 and 255 is ignored; map ids with"
        " data.id_map, or set data.classes or data.ignore_index"
    )


def test_the_ignored_id_of_the_masks_becomes_255(tmp_path):
    save_mask(tmp_path / "m.png", np.array([[0, 1, 2]], np.uint8))
    assert read_mask(cell(tmp_path / "m.png"), Data(ignore_index=2), 2).tolist() == [[0, 1, 255]]
    assert "has the id 2, but" in sentence(read_mask, cell(tmp_path / "m.png"), Data(), 2)


def test_255_is_an_id_like_any_other_when_something_else_is_ignored(tmp_path):
    save_mask(tmp_path / "m.png", np.array([[0, 1, 255]], np.uint8))
    assert "has the id 255, but" in sentence(read_mask, cell(tmp_path / "m.png"), Data(ignore_index=2), 2)
    assert read_mask(cell(tmp_path / "m.png"), Data(id_map={"255": 1}), 2).tolist() == [[0, 1, 1]]


def test_id_map_moves_ids_and_may_ignore_some(tmp_path):
    save_mask(tmp_path / "m.png", np.array([[0, 1, 2, 7, 255]], np.uint8))
    mapped = Data(id_map={"0": 255, "1": 0, "2": 1, "7": 1})
    assert read_mask(cell(tmp_path / "m.png"), mapped, 2).tolist() == [[255, 0, 1, 1, 255]]


def test_with_zero_ignored_and_the_rest_moved_down_a_map_to_zero_means_class_zero(tmp_path):
    save_mask(tmp_path / "m.png", np.array([[0, 1, 2]], np.uint8))
    mapped = Data(ignore_index=0, id_map={"1": 0, "2": 1})
    assert read_mask(cell(tmp_path / "m.png"), mapped, 2).tolist() == [[255, 0, 1]]


def test_an_id_map_that_cannot_be_is_refused(tmp_path):
    save_mask(tmp_path / "m.png")
    record = cell(tmp_path / "m.png")
    assert sentence(read_mask, record, Data(id_map={"1": 3}), 3) == (
        "data.id_map.1 is 3; use a class id from 0 to 2, or 255 to ignore it"
    )
    assert sentence(read_mask, record, Data(id_map={"sky": 1}), 3) == (
        "data.id_map has the key 'sky'; keys are the ids in the masks, 0 to 65535"
    )


def test_sixteen_bit_masks_are_read_through_the_map(tmp_path):
    Image.fromarray(np.array([[0, 1000, 65535]], np.uint16)).save(tmp_path / "m.png")
    mapped = Data(ignore_index=65535, id_map={"1000": 1})
    assert read_mask(cell(tmp_path / "m.png"), mapped, 2).tolist() == [[0, 1, 255]]


def test_a_bilevel_mask_has_the_ids_0_and_1(tmp_path):
    Image.fromarray(np.array([[False, True]])).save(tmp_path / "m.png")
    assert read_mask(cell(tmp_path / "m.png"), Data(), 2).tolist() == [[0, 1]]


# ---- folder


def test_a_folder_with_lists_becomes_three_tables_sorted_by_id(root):
    found = load_sources(data(root))
    assert found.labeled["id"][:] == ["a", "b"] and found.validation["id"][:] == ["f"]
    assert found.labeled[0] == {"image": cell(root / "images/a.jpg"), "id": "a", "mask": cell(root / "masks/a.png")}
    assert found.classes == ("ground", "leaf", "bud") and found.notes == ()


def test_an_empty_unlabeled_key_means_every_other_image(root):
    assert load_sources(data(root)).unlabeled["id"][:] == ["c", "d", "e"]


def test_the_pool_has_no_masks_and_never_opens_one(root, monkeypatch):
    write(root / "pool.txt", "images/a.jpg masks/a.png", "images/c.jpg masks/c.png", "d")
    write(root / "labeled.txt", "b")
    (root / "masks" / "c.png").write_bytes(b"a mask that nobody may open")
    seen = []
    read_bytes = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: seen.append(path.name) or read_bytes(path))
    found = load_sources(data(root, unlabeled="pool.txt"))
    check_masks(found, data(root))
    assert found.unlabeled.column_names == ["image", "id"] and found.unlabeled["id"][:] == ["a", "c", "d"]
    assert [read_image(row["image"]).size for row in found.unlabeled] == [(WIDTH, HEIGHT)] * 3
    assert sorted(seen) == ["a.jpg", "b.png", "c.jpg", "d.jpg", "f.png"]


def test_lists_may_name_ids_files_paths_or_pairs_of_paths(root):
    write(root / "all.txt", "# four ways", "a", "", "b.jpg", "images/c.jpg", "/images/d.jpg /masks/a.png")
    found = load_sources(data(root, unlabeled="all.txt", labeled="labeled.txt"))
    assert found.unlabeled["id"][:] == ["c", "d"]
    assert found.notes == ("taken out of the pool: 2 labelled images of data.unlabeled",)


def test_a_list_of_pairs_needs_no_folders_of_our_names(tmp_path):
    save_image(tmp_path / "photos/2007 one.jpg")
    save_image(tmp_path / "photos/two.JPG")
    save_mask(tmp_path / "truth/two_ids.png")
    write(tmp_path / "labeled.txt", "photos/two.JPG truth/two_ids.png")
    write(tmp_path / "pool.txt", "photos/2007 one.jpg")
    found = load_sources(data(tmp_path, unlabeled="pool.txt", validation="labeled.txt"), training=False)
    assert found.validation[0]["mask"] == cell(tmp_path / "truth/two_ids.png") and len(found.labeled) == 0


def test_ids_may_lie_in_subfolders_and_may_be_named_without_them(tmp_path):
    for half, name in (("train", "a"), ("train", "b"), ("test", "f")):
        save_image(tmp_path / "images" / half / f"{name}.png")
        save_mask(tmp_path / "masks" / half / f"{name}.png")
    write(tmp_path / "labeled.txt", "a")
    write(tmp_path / "test.txt", "test/f")
    found = load_sources(data(tmp_path))
    assert found.labeled["id"][:] == ["train/a"] and found.unlabeled["id"][:] == ["train/b"]
    by_folder = load_sources(data(tmp_path, labeled="train", validation="test"))
    assert by_folder.labeled["id"][:] == ["a", "b"]
    assert by_folder.labeled[0]["mask"] == cell(tmp_path / "masks/train/a.png")


def test_subfolders_may_stand_for_lists(tmp_path):
    for part, name in (("labeled", "a"), ("val", "a")):
        save_image(tmp_path / part / "images" / f"{name}.jpg")
        save_mask(tmp_path / part / "masks" / f"{name}.png")
    save_image(tmp_path / "unlabeled" / "u.jpg")
    found = load_sources(data(tmp_path, labeled="labeled", unlabeled="unlabeled", validation="val"))
    assert [found.labeled["id"][:], found.unlabeled["id"][:], found.validation["id"][:]] == [["a"], ["u"], ["a"]]


def test_an_id_of_another_folder_is_not_found_by_its_name_alone(tmp_path):
    save_image(tmp_path / "images/train/a.jpg")
    write(tmp_path / "labeled.txt", "test/a")
    assert sentence(load_sources, data(tmp_path)) == (
        f"data.labeled: 1 id of {tmp_path}/labeled.txt has no image in {tmp_path}/images, the first: test/a"
    )


def test_the_hash_of_a_list_is_that_of_its_sorted_ids(root):
    expected = hashlib.sha256(b"a\nb\n").hexdigest()
    assert load_sources(data(root)).lists["labeled"] == {"images": 2, "sha256": expected}


def test_evaluation_alone_needs_no_training_lists(root):
    found = load_sources(data(root, labeled="", unlabeled="gone.txt"), training=False)
    assert (len(found.labeled), len(found.unlabeled), len(found.validation)) == (0, 0, 1)


def test_class_names_come_from_a_list_or_a_mapping_or_classes_json(root):
    (root / "names.json").write_text(json.dumps({"0": "sky", "1": "road", "2": "car"}))
    assert load_sources(data(root, classes=(), classes_file="names.json")).classes == ("sky", "road", "car")
    (root / "classes.json").write_text(json.dumps(["x", "y"]))
    assert load_sources(data(root, classes=())).classes == ("x", "y")


# ---- what is wrong


def test_a_missing_folder_is_refused_with_the_nearest_name(root):
    assert sentence(load_sources, data(root.with_name("flower"))) == (
        f"data.root is '{root.parent}/flower', but there is no such folder; did you mean {root}?"
    )


def test_an_empty_root_is_refused():
    expected = "data.root is empty; write data.root=... with the folder that holds the data"
    assert sentence(load_sources, data("")) == expected


def test_a_missing_list_is_refused_with_the_names_near_it(root):
    assert sentence(load_sources, data(root, labeled="labelled.txt")) == (
        f"data.labeled is 'labelled.txt', but there is no such list or folder in {root} or {root}/images; near it are"
        " labeled.txt"
    )


def test_an_id_without_a_file_is_refused(root):
    write(root / "labeled.txt", "a", "fa", "x/y")
    assert sentence(load_sources, data(root)) == (
        f"data.labeled: 2 ids of {root}/labeled.txt have no image in {root}/images, the first: fa (the nearest name is"
        " f)"
    )


def test_a_labelled_image_without_a_mask_is_refused(root):
    write(root / "labeled.txt", "a", "c")
    assert sentence(load_sources, data(root)) == (
        f"data.labeled: 1 image of {root}/labeled.txt has no mask in {root}/masks, the first: c; a mask has the name"
        " of its image and one of the endings .png, .tif, .tiff, .bmp, .gif"
    )


def test_a_jpeg_is_no_mask(root):
    save_image(root / "masks" / "c.jpg")
    write(root / "labeled.txt", "c")
    assert "has no mask in" in sentence(load_sources, data(root))


def test_duplicate_ids_are_refused(root):
    write(root / "labeled.txt", "a", "b", "a.jpg")
    assert sentence(load_sources, data(root)) == (
        f"data.labeled: {root}/labeled.txt names 1 id more than once, the first: a"
    )


def test_an_empty_list_is_refused(root):
    write(root / "labeled.txt", "", "# nothing")
    assert sentence(load_sources, data(root)) == f"data.labeled: the list {root}/labeled.txt is empty"


@pytest.mark.parametrize("part", ["labeled", "unlabeled"])
def test_training_images_among_the_evaluation_images_are_refused(root, part):
    write(root / "both.txt", "b", "f")
    message = sentence(load_sources, data(root, **{part: "both.txt"}))
    assert message == (
        f"1 image of data.{part} is also in data.validation, the first: f; an image is either trained on or evaluated"
        " on"
    )


@pytest.mark.parametrize("line", ["../other/a", "images/../../a.jpg", "a ../masks/a.png"])
def test_a_list_cannot_leave_the_data_folder(root, line):
    write(root / "labeled.txt", line)
    assert sentence(load_sources, data(root)) == (
        f"data.labeled: {root}/labeled.txt has the line {line!r}, which leaves the data folder {root}; use ids below it"
    )


def test_an_absolute_path_in_a_list_is_taken_from_the_data_folder(root, tmp_path):
    save_image(tmp_path / "outside.jpg")
    write(root / "labeled.txt", f"{tmp_path}/outside.jpg")
    assert "has no image in" in sentence(load_sources, data(root))


def test_a_key_that_is_needed_and_empty_is_refused(root):
    assert sentence(load_sources, data(root, labeled="")) == (
        f"data.labeled is empty; write data.labeled=... with a list file or a subfolder of {root}"
    )


def test_data_without_class_names_are_refused(root):
    assert sentence(load_sources, data(root, classes=())) == (
        'no class names: write data.classes=["name of id 0", "name of id 1", ...], or give a JSON file with'
        f" data.classes_file=..., or put it at {root}/classes.json"
    )


def test_class_names_that_cannot_be_are_refused(root):
    assert sentence(load_sources, data(root, classes=("one",))) == (
        "the class names of data.classes cannot be used: 1 name; it must be 2 to 255"
    )
    assert sentence(load_sources, data(root, classes=("leaf", "leaf"))) == (
        "the class names of data.classes cannot be used: 'leaf' is there twice"
    )
    (root / "classes.json").write_text('{"1": "sky", "2": "road"}')
    assert sentence(load_sources, data(root, classes=())) == (
        f'{root}/classes.json has no class names; write a list, ["sky", "road"], or {{"0": "sky", "1": "road"}}'
    )


def test_check_masks_opens_every_labelled_mask_and_a_sample_of_the_others(root):
    save_mask(root / "masks" / "b.png", ids(HEIGHT, WIDTH + 1))
    found = load_sources(data(root))
    assert sentence(check_masks, found, data(root), 1) == (
        f"image {root}/images/b.jpg is 24x16 and its mask {root}/masks/b.png is 25x16 (width x height); both must have"
        " the same size"
    )


def test_check_masks_names_the_classes_without_a_labelled_pixel(root):
    changed = data(root, classes=("ground", "leaf", "bud", "bee"))
    assert check_masks(load_sources(changed), changed) == ("no labelled pixel shows bee",)


def test_masks_of_0_and_255_are_refused_because_255_is_ignored(root):
    for name in "ab":
        save_mask(root / "masks" / f"{name}.png", np.where(ids() == 1, 255, 0).astype(np.uint8), palette=False)
    found = load_sources(data(root))
    assert sentence(check_masks, found, data(root)) == (
        "the labelled masks show nothing but class 0 and ignored pixels; if 255 means a class there, write"
        ' data.id_map={"255": 1}'
    )
    assert check_masks(found, data(root, id_map={"255": 1})) == ("no labelled pixel shows bud",)


# ---- the known layouts


@pytest.fixture
def devkit(tmp_path):
    root = tmp_path / "VOCdevkit" / "VOC2012"
    for name in ("2007_000001", "2007_000002", "2008_000003", "2009_000004"):
        save_image(root / "JPEGImages" / f"{name}.jpg")
        save_mask(root / "SegmentationClassAug" / f"{name}.png", palette=False)
    for name in ("2007_000001", "2009_000004"):
        save_mask(root / "SegmentationClass" / f"{name}.png")
    write(root / "ImageSets/Segmentation/train.txt", "2007_000001", "2007_000002")
    write(root / "ImageSets/Segmentation/val.txt", "2009_000004")
    return root


def test_voc_prefers_the_original_mask_and_fills_in_the_augmented_one(devkit, tmp_path):
    line = "/JPEGImages/2007_000002.jpg /SegmentationClassAug/2007_000002.png"
    write(tmp_path / "2.txt", "2007_000001", line)
    for root in (devkit, devkit.parent, tmp_path):
        found = load_sources(Data(source="voc", root=str(root), labeled=str(tmp_path / "2.txt")))
        masks = [row["mask"]["path"].split("/")[-2] for row in found.labeled]
        assert masks == ["SegmentationClass", "SegmentationClassAug"] and len(found.classes) == 21


def test_the_voc_pool_is_the_list_given_or_the_training_lists_minus_the_labelled(devkit, tmp_path):
    write(tmp_path / "1.txt", "2007_000001")
    write(tmp_path / "train_aug.txt", "2007_000001", "2007_000002", "2008_000003")
    values = {"source": "voc", "root": str(devkit), "labeled": str(tmp_path / "1.txt")}
    found = load_sources(Data(**values))
    assert found.unlabeled["id"][:] == ["2007_000002"] and found.validation["id"][:] == ["2009_000004"]
    assert found.notes == (f"data.unlabeled is empty: the pool is train.txt of {devkit}/ImageSets/Segmentation",)
    found = load_sources(Data(**values, unlabeled=str(tmp_path / "train_aug.txt")))
    assert found.unlabeled["id"][:] == ["2007_000002", "2008_000003"]
    assert found.notes == ("taken out of the pool: 1 labelled image of data.unlabeled",)


def test_a_voc_list_that_needs_the_augmented_masks_says_where_they_were_sought(devkit, tmp_path):
    (devkit / "SegmentationClassAug" / "2007_000002.png").unlink()
    write(tmp_path / "2.txt", "2007_000001", "2007_000002")
    assert sentence(load_sources, Data(source="voc", root=str(devkit), labeled=str(tmp_path / "2.txt"))) == (
        f"data.labeled: 1 image of {tmp_path}/2.txt has no mask in SegmentationClass or SegmentationClassAug of"
        f" {devkit}, the first: 2007_000002; a mask has the name of its image and one of the endings .png, .tif, .tiff, .bmp, .gif"
    )


def test_a_folder_that_is_no_voc_tree_is_refused(tmp_path):
    places = " or ".join(f"{tmp_path}{below}" for below in ("", "/VOC2012", "/VOCdevkit/VOC2012"))
    message = sentence(load_sources, Data(source="voc", root=str(tmp_path), labeled="x"))
    assert message == f"there is no folder JPEGImages in {places}"


def test_cityscapes_ids_are_mapped_to_the_19_train_ids(tmp_path):
    names = {"train": ("jena_000001_000019", "ulm_000002_000019"), "val": ("lindau_000003_000019",)}
    for half, stems in names.items():
        for stem in stems:
            city = stem.split("_")[0]
            save_image(tmp_path / "leftImg8bit" / half / city / f"{stem}_leftImg8bit.png")
            raw = np.array([[0, 7, 8, 33, 26, 4]] * HEIGHT, np.uint8).repeat(4, axis=1)
            save_mask(tmp_path / "gtFine" / half / city / f"{stem}_gtFine_labelIds.png", raw, palette=False)
            save_image(tmp_path / "gtFine" / half / city / f"{stem}_gtFine_color.png")
    stem = "train/jena/jena_000001_000019"
    line = f"leftImg8bit/{stem}_leftImg8bit.png gtFine/{stem}_gtFine_labelTrainIds.png"
    for each in ("jena_000001_000019", line):
        write(tmp_path / "1.txt", each)
        changed = Data(source="cityscapes", root=str(tmp_path), labeled="1.txt")
        found = load_sources(changed)
        assert found.labeled["id"][:] == ["jena_000001_000019"] and found.unlabeled["id"][:] == ["ulm_000002_000019"]
        assert found.validation["id"][:] == ["lindau_000003_000019"] and len(found.classes) == 19
        assert read_pair(found.labeled[0], changed, 19)[1][0, ::4].tolist() == [255, 0, 1, 18, 13, 255]
    made = tmp_path / "gtFine/train/jena/jena_000001_000019_gtFine_labelTrainIds.png"
    save_mask(made, np.array([[255, 0, 1, 18, 13, 7]] * HEIGHT, np.uint8).repeat(4, axis=1), palette=False)
    found = load_sources(changed)
    assert read_pair(found.labeled[0], changed, 19)[1][0, ::4].tolist() == [255, 0, 1, 18, 13, 7]


def test_coco_has_81_classes_and_its_two_image_folders(tmp_path):
    for half, name in (("train", "000000000001"), ("train", "000000000002"), ("val", "000000000003")):
        save_image(tmp_path / f"{half}2017" / f"{name}.jpg")
        save_mask(tmp_path / "masks" / f"{half}2017" / f"{name}.png", np.full((HEIGHT, WIDTH), 80, np.uint8))
    write(tmp_path / "1_512.txt", "000000000001")
    found = load_sources(Data(source="coco", root=str(tmp_path), labeled="1_512"))
    assert (found.unlabeled["id"][:], found.validation["id"][:]) == (["000000000002"], ["000000000003"])
    assert len(found.classes) == 81 and found.classes[1] == "person" and found.classes[80] == "toothbrush"
    assert read_mask(found.labeled[0]["mask"], Data(), 81).max() == 80


def test_the_drawn_world_has_rows_and_no_files():
    world = config.Shapes(labeled=3, unlabeled=4, validation=2, height=32, width=48, seed=5)
    drawn = Data(source="shapes", shapes=world)
    found = load_sources(drawn)
    assert [row["image"]["path"] for row in found.labeled] == [f"shapes:5:{i}:32x48" for i in range(3)]
    assert found.unlabeled["id"][:] == ["0000003", "0000004", "0000005", "0000006"]
    assert found.unlabeled.column_names == ["image", "id"]
    assert found.validation["id"][:] == ["1000000", "1000001"]
    image, mask = read_pair(found.labeled[0], drawn, len(found.classes))
    assert (image.mode, image.size, mask.shape, mask.dtype) == ("RGB", (48, 32), (32, 48), np.uint8)
    assert check_masks(found, drawn) == ()


# ---- the Hub


def table(count, masks=True):
    images = [np.full((HEIGHT, WIDTH, 3), 20 * i, np.uint8) for i in range(count)]
    columns = {"image": [Image.fromarray(image) for image in images]}
    if masks:
        picture = Image.fromarray(ids())
        picture.putpalette(PALETTE)
        columns["annotation"] = [picture] * count
    made = datasets.Dataset.from_dict(columns)
    return made.cast_column("image", datasets.Image())


@pytest.fixture
def saved(tmp_path):
    datasets.disable_progress_bars()
    datasets.DatasetDict({"train": table(5), "validation": table(2)}).save_to_disk(str(tmp_path / "saved"))
    datasets.enable_progress_bars()
    return tmp_path / "saved"


def test_a_dataset_on_disk_gives_the_first_rows_as_labelled_and_the_rest_as_pool(saved):
    changed = Data(source="hub", root=str(saved), labeled="first:2", classes=("a", "b", "c"))
    found = load_sources(changed)
    assert (found.labeled["id"][:], found.unlabeled["id"][:]) == (["0", "1"], ["2", "3", "4"])
    assert found.unlabeled.column_names == ["image", "id"] and len(found.validation) == 2
    assert found.notes == (
        f"{saved}: the pool is what the split train (5 rows) has beside the labelled: 3 images",
    )
    image, mask = read_pair(found.labeled[1], changed, 3)
    assert np.asarray(image).max() == 20 and np.array_equal(mask, ids())
    assert check_masks(found, changed) == ()


def test_labelled_rows_may_be_listed(saved, tmp_path):
    write(tmp_path / "rows.txt", "3", "1")
    changed = Data(source="hub", root=str(saved), labeled=str(tmp_path / "rows.txt"), classes=("a", "b", "c"))
    found = load_sources(changed)
    assert (found.labeled["id"][:], found.unlabeled["id"][:]) == (["1", "3"], ["0", "2", "4"])
    write(tmp_path / "rows.txt", "3", "5")
    assert sentence(load_sources, changed) == (
        f"data.labeled: {tmp_path}/rows.txt names 5, which is no row of the split train"
    )


def test_more_labelled_rows_than_there_are_is_refused(saved):
    changed = Data(source="hub", root=str(saved), labeled="first:6", classes=("a", "b"))
    assert sentence(load_sources, changed) == "data.labeled is 'first:6', but the split train has 5 rows"


def test_a_dataset_without_masks_is_refused(tmp_path):
    datasets.disable_progress_bars()
    datasets.DatasetDict({"train": table(2, masks=False)}).save_to_disk(str(tmp_path / "bare"))
    datasets.enable_progress_bars()
    changed = Data(source="hub", root=str(tmp_path / "bare"), labeled="first:1", validation="train", classes=("a", "b"))
    assert sentence(load_sources, changed) == (
        f"{tmp_path}/bare, split 'train', has no mask column; it has image, and one of mask, label, annotation,"
        " segmentation, segmentation_mask, semantic_segmentation, labels is needed"
    )


def test_an_image_folder_with_metadata_is_a_dataset_too(tmp_path):
    for half in ("train", "validation"):
        for name in "ab":
            save_image(tmp_path / "set" / half / f"{name}.png")
            save_mask(tmp_path / "set" / half / f"{name}_mask.png")
        write(
            tmp_path / "set" / half / "metadata.jsonl",
            *(json.dumps({"file_name": f"{name}.png", "mask_file_name": f"{name}_mask.png"}) for name in "ab"),
        )
    changed = Data(source="hub", root=str(tmp_path / "set"), labeled="first:1", classes=("a", "b", "c"))
    found = load_sources(changed)
    assert (len(found.labeled), len(found.unlabeled), len(found.validation)) == (1, 1, 2)
    assert np.array_equal(read_pair(found.labeled[0], changed, 3)[1], ids())


def test_a_hub_that_cannot_be_reached_is_a_sentence():
    message = sentence(load_sources, Data(source="hub", root="nobody/nothing", labeled="first:1", classes=("a", "b")))
    assert message.startswith("data.root is 'nobody/nothing', and that dataset cannot be loaded: ")
    assert message.endswith("; give the id of a Hub dataset that can be reached from here, or a folder with a dataset")


def test_every_source_of_the_config_is_a_function():
    assert set(sources.SOURCES) == set(config.Data.__dataclass_fields__["source"].type.__args__)
