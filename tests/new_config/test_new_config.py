"""command.py and what it calls: from a folder of photos to a config that trains as it stands."""

import json
import shutil
import unicodedata
from dataclasses import replace

import numpy as np
import pytest
from folders import HEIGHT, WIDTH, ids, save_mask, save_photo, write
from PIL import Image
from transformers import SwinConfig

from s4former.config import load
from s4former.data.masks import read_mask, read_pair
from s4former.data.sources import check_masks, load_sources
from s4former.evaluation.pictures import palette_png
from s4former.new_config.command import main


@pytest.fixture
def photos(tmp_path):
    """labeled/ a b c, unlabeled/ d e f g, val/ h i."""
    root = tmp_path / "photos"
    for seed, name in enumerate("abcdefghi"):
        part = "labeled" if name in "abc" else "val" if name in "hi" else "unlabeled"
        save_photo(root / part / "images" / f"{name}.png", seed)
        if part != "unlabeled":
            save_mask(root / part / "masks" / f"{name}.png")
    return root


@pytest.fixture
def images(photos):
    """The same photos as images/ and masks/."""
    root = photos.with_name("other")
    for path in photos.rglob("*.png"):
        target = root / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return root


def new_config(root, *arguments):
    output = root.parent / "mine.json"
    return main([str(root), "-o", str(output), *arguments]), output


def config_of(root, *arguments):
    status, output = new_config(root, *arguments)
    assert status == 0
    config = load(output)
    sources = load_sources(config.data)
    check_masks(sources, config.data)
    return config, {part: [row.rpartition("/")[2] for row in getattr(sources, part)["id"]] for part in sources.lists}


def complaint(capsys, root, *arguments):
    assert new_config(root, *arguments)[0] == 1
    assert not list(root.parent.glob("mine*"))
    return capsys.readouterr().err


def test_subfolders_become_a_config_and_three_lists_that_load(photos, capsys):
    before = sorted(photos.rglob("*"))
    config, parts = config_of(photos, "--classes", "ground", "leaf", "bud")
    assert parts == {"labeled": ["a", "b", "c"], "unlabeled": ["d", "e", "f", "g"], "validation": ["h", "i"]}
    assert config.data.classes == ("ground", "leaf", "bud") and config.data.ignore_index == 255
    assert sorted(photos.rglob("*")) == before, "nothing is written into the folder of photos"
    said = " ".join(capsys.readouterr().out.split())
    assert "labelled 3 24x16" in said and "unlabelled 4 24x16" in said
    assert "ground 0 23.96% 3/3 23.96%" in said
    assert "id 255 is taken as no label" in said and "s4former check --config" in said
    assert " is downloaded at the first run; without network take --encoder shapes" in said


def test_images_without_a_mask_are_the_pool_and_some_labels_are_held_out(images, capsys):
    config, parts = config_of(images)
    assert parts["unlabeled"] == ["d", "e", "f", "g"]
    assert len(parts["labeled"]) == 4 and len(parts["validation"]) == 1
    assert "there is no val/: 1 of the 5 labelled images held out (seed 0)" in " ".join(capsys.readouterr().out.split())
    again = {}
    for seed in range(4):
        for path in images.parent.glob("mine*"):
            path.unlink()
        again[seed] = config_of(images, "--seed", str(seed))[1]["validation"]
    for path in images.parent.glob("mine*"):
        path.unlink()
    parts_of_more = config_of(images, "--validation", "0.6")[1]
    assert len(parts_of_more["validation"]) == 3 and len(parts_of_more["labeled"]) == 2
    assert again[0] == parts["validation"] and len(set(map(tuple, again.values()))) > 1


def test_the_only_image_of_a_class_is_not_held_out(images):
    for name in "abhi":
        save_mask(images / "masks" / f"{name}.png", np.zeros((HEIGHT, WIDTH), np.uint8))
    for seed in range(5):
        for path in images.parent.glob("mine*"):
            path.unlink()
        assert "c" in config_of(images, "--seed", str(seed))[1]["labeled"]


def test_lists_and_a_subfolder_called_val_say_what_is_what(images):
    write(images / "labeled.txt", "a", "h")
    write(images / "validation.txt", "b")
    parts = config_of(images)[1]
    assert parts == {"labeled": ["a", "h"], "validation": ["b"], "unlabeled": ["c", "d", "e", "f", "g", "i"]}


def test_images_val_is_held_out(images):
    for kind in ("images", "masks"):
        (images / kind / "val").mkdir()
        shutil.move(images / kind / "i.png", images / kind / "val" / "i.png")
    parts = config_of(images)[1]
    assert parts["validation"] == ["i"] and parts["labeled"] == ["a", "b", "c", "h"]


def test_copies_between_the_sets_are_left_out_of_the_less_precious_one(photos, capsys):
    shutil.copy(photos / "val/images/h.png", photos / "unlabeled/images/x.png")
    shutil.copy(photos / "val/images/i.png", photos / "labeled/images/b.png")
    shutil.copy(photos / "labeled/images/a.png", photos / "unlabeled/images/y.png")
    shutil.copy(photos / "unlabeled/images/d.png", photos / "unlabeled/images/z.png")
    parts = config_of(photos)[1]
    assert parts == {"labeled": ["a", "c"], "unlabeled": ["d", "e", "f", "g", "z"], "validation": ["h", "i"]}
    said = " ".join(capsys.readouterr().out.split())
    assert "left out: 1 unlabelled image with the content of evaluation ones, the first: x.png" in said
    assert "left out: 1 labelled image with the content of evaluation ones, the first: b.png" in said
    assert "left out: 1 unlabelled image with the content of labelled ones, the first: y.png" in said
    assert "there twice within its set, by content, and left there: 1 image" in said


def test_what_cannot_be_used_is_named_and_left_out(photos, capsys):
    (photos / "labeled/images/a.png").write_bytes(b"no picture")
    save_mask(photos / "val/masks/h.png", ids(HEIGHT, WIDTH + 1))
    (photos / "unlabeled/images/d.png").write_bytes(b"no picture")
    cut = (photos / "unlabeled/images/e.png").read_bytes()[:-40]
    (photos / "unlabeled/images/e.png").write_bytes(cut)
    (photos / "labeled/masks/c.png").unlink()
    save_mask(photos / "labeled/masks/zebra.png")
    parts = config_of(photos)[1]
    assert parts == {"labeled": ["b"], "unlabeled": ["c", "f", "g"], "validation": ["i"]}
    said = " ".join(capsys.readouterr().out.split())
    for words in ("e.png cannot be read", "a.png cannot be read", "h.png is 25x16", "d.png cannot be read", "without a mask, so put into the pool: 1 image of", "the first: c", "without an image: 1 mask of", "the first: zebra.png"):  # fmt: skip
        assert words in said


def test_binary_masks_train_as_two_classes(photos, capsys):
    for path in photos.rglob("masks/*.png"):
        save_mask(path, np.where(ids() == 1, 255, 0).astype(np.uint8), palette=False)
    config, _ = config_of(photos)
    assert config.data.id_map == {"0": 0, "255": 1} and config.data.ignore_index == 254
    said = " ".join(capsys.readouterr().out.split())
    assert "255 is read as class 1, foreground" in said and "NCR would always be 0 and is left out" in said


def test_masks_of_colours_want_a_palette_and_are_told_their_colours(photos, capsys):
    for path in photos.rglob("masks/*.png"):
        with Image.open(path) as picture:
            picture.convert("RGB").save(path)
    said = complaint(capsys, photos)
    assert '"name me 0": "#008000"' in said and '"name me 1": "#000000"' in said and "--palette FILE" in said
    names = {"#008000": "bud", "#800000": "leaf", "#000000": "ground", "#070707": "void"}
    (photos / "palette.json").write_text(json.dumps({name: colour for colour, name in names.items()}))
    config, _ = config_of(photos)
    assert config.data.classes == ("bud", "leaf", "ground") and config.data.palette["#070707"] == 3
    assert "id 3 is taken as no label" in " ".join(capsys.readouterr().out.split())


def test_indexed_masks_with_palettes_of_their_own_are_refused_or_go_by_colour(photos, capsys):
    with Image.open(photos / "labeled/masks/b.png") as picture:
        turned = Image.fromarray(np.array([1, 0, 2, *[255] * 253], np.uint8)[np.asarray(picture)])
    turned.putpalette([128, 0, 0, 0, 0, 0, 0, 128, 0, *[7] * 759])  # the same picture, 0 and 1 exchanged
    turned.save(photos / "labeled/masks/b.png")
    said = complaint(capsys, photos)
    assert "the id 0 is #000000 in" in said and "#800000 in" in said and "b.png" in said and "--palette FILE" in said
    names = {"ground": "#000000", "leaf": "#800000", "bud": "#008000"}
    (photos / "palette.json").write_text(json.dumps(names))
    said = complaint(capsys, photos)
    assert "5 masks of 5 (the first: a.png) show 1 colour that the palette lacks" in said and '"NAME": "#070707"' in said
    (photos / "palette.json").write_text(json.dumps({**names, "void": "#070707"}))
    config, _ = config_of(photos)
    masks = [read_mask({"path": str(photos / f"labeled/masks/{name}.png"), "bytes": None}, config.data, 3) for name in "ab"]
    assert np.array_equal(masks[0], ids()) and np.array_equal(masks[1], ids())


def test_the_palette_in_the_masks_is_that_of_pictures_unless_its_colours_look_alike(photos):
    assert config_of(photos, "--classes", "ground", "leaf", "bud", "bee", "fly")[0].data.colours == ("#000000", "#800000", "#008000", "", "")
    for path in photos.rglob("masks/*.png"):
        save_mask(path, palette=False)
    (photos.parent / "mine.json").unlink(), [path.unlink() for path in photos.parent.glob("mine.*.txt")]
    assert config_of(photos)[0].data.colours == ()


def test_the_one_mask_of_colours_is_named_and_the_others_are_used(photos, capsys):
    Image.open(photos / "labeled/masks/b.png").convert("RGB").save(photos / "labeled/masks/b.png")
    assert config_of(photos)[1]["labeled"] == ["a", "c"]
    assert "b.png holds colours, while 4 others hold ids; save it as ids too" in " ".join(capsys.readouterr().out.split())


def test_masks_that_the_pool_wrote_are_read_in_the_ids_that_they_state(photos, capsys):
    for path in photos.rglob("masks/*.png"):
        save_mask(path, np.where(ids() == 1, 255, 0).astype(np.uint8), palette=False)
    palette_png(np.where(ids() == 1, 255, 254), photos / "labeled/masks/b.png", {"ground": 0, "leaf": 255, "": 254})
    config, _ = config_of(photos, "--classes", "ground", "leaf")
    assert config.data.id_map == {"0": 0, "255": 1} and config.data.ignore_index == 254
    assert "some masks were written by s4former" in capsys.readouterr().out


def test_a_saved_dataset_is_told_where_to_go(tmp_path, capsys):
    write(tmp_path / "saved/dataset_dict.json", "{}")
    assert complaint(capsys, tmp_path / "saved").endswith("is read without new-config: data.source=hub (docs/own_images.md)\n")


def test_masks_that_state_ids_do_not_number_those_that_state_none(photos, capsys):
    palette_png(np.where(ids() == 1, 1, 0), photos / "labeled/masks/b.png", {"ground": 0, "leaf": 1})
    assert "state the ids {'ground': 0, 'leaf': 1}, the others state none; give the names of theirs" in complaint(capsys, photos)


def test_masks_that_the_pool_wrote_are_not_mixed_with_those_of_other_ids(photos, capsys):
    for path in photos.rglob("masks/*.png"):
        save_mask(path, np.where(ids() == 1, 255, 0).astype(np.uint8), palette=False)
    palette_png(np.where(ids() == 1, 1, 254), photos / "labeled/masks/b.png", {"ground": 0, "leaf": 1, "": 254})
    said = complaint(capsys, photos, "--classes", "ground", "leaf")
    assert "state the ids {'ground': 0, 'leaf': 1, '': 254}, but others hold 255 (the first: a.png); use masks of one kind" in said


def test_what_is_not_used_is_counted_by_kind_with_its_cure(photos, capsys):
    for name in ("a.heic", "b.heic", "film.mp4", "set.zip", ".hidden.png", "notes.json", "readme.txt"):
        (photos / "unlabeled" / "images" / name).write_bytes(b"anything")
    save_photo(photos / "labeled" / "raw" / "z.png", 77)
    assert config_of(photos)[1]["unlabeled"] == ["d", "e", "f", "g"]
    said = " ".join(capsys.readouterr().out.split())
    assert "not used: 2 files (.heic), the first:" in said and "convert them to JPEG" in said
    for words in ("1 file (.mp4)", "1 file (.zip)", "1 file (hidden)", "1 file (.json)", "1 file (.png), the first: z.png"):
        assert words in said
    assert "readme" not in said


def test_two_photos_of_one_stem_are_both_used(photos, capsys):
    for name, seed in (("d", 50), ("a", 51)):
        part = "unlabeled" if name == "d" else "labeled"
        save_photo(photos / part / "images" / f"{name}.jpg", seed)
    parts = config_of(photos)[1]
    assert parts["labeled"] == ["a", "b", "c"] and sorted(parts["unlabeled"]) == ["a", "d.jpg", "d.png", "e", "f", "g"]
    said = " ".join(capsys.readouterr().out.split())
    assert "without a mask, so put into the pool: 1 image of" in said
    assert "so without one: 1 image, the first: labeled/a.png beside a.jpg; if the mask is its own, call it a.png.png" in said


@pytest.mark.parametrize("name", ["{}_segmentation.png", "{}.jpg.png"])
def test_masks_with_a_shared_ending_or_the_ending_of_their_image_are_found(photos, name):
    for path in photos.rglob("masks/*.png"):
        path.rename(path.with_name(name.format(path.stem)))
    assert config_of(photos)[1]["labeled"] == ["a", "b", "c"]


@pytest.mark.parametrize("name", ["{}_mask.png", "{}.png"])
def test_a_mask_beside_its_image_is_never_a_photo(photos, name):
    for part in ("labeled", "unlabeled", "val"):
        for path in (photos / part / "images").iterdir():
            Image.open(path).save(photos / part / f"{path.stem}.jpg", quality=100)
            save_mask(photos / part / name.format(path.stem))
        shutil.rmtree(photos / part / "images")
        shutil.rmtree(photos / part / "masks", ignore_errors=True)
    assert config_of(photos)[1] == {"labeled": ["a", "b", "c"], "unlabeled": ["d", "e", "f", "g"], "validation": ["h", "i"]}


def test_a_mask_without_an_image_is_named_with_the_image_that_comes_nearest(photos, capsys):
    for place, path in enumerate(sorted((photos / "labeled/masks").iterdir())):
        path.rename(path.with_name(f"{path.stem}{place}zz.png"))
    said = complaint(capsys, photos)
    for words in (
        f"no image to train on in {photos} has a mask; the nearest are the image labeled/images/a.png and the mask"
        " labeled/masks/a0zz.png; a mask has the name of its image, with or without a tag such as _mask",
        f"new-config {photos} --images 'labeled/images/*.png' --masks 'labeled/masks/*0zz.png'",
    ):
        assert words in said


def test_names_are_compared_in_nfc(photos):
    for path in [*(photos / "labeled/images").iterdir(), *(photos / "labeled/masks").iterdir()]:
        form = "NFD" if path.parent.name == "images" else "NFC"
        path.rename(path.with_name(unicodedata.normalize(form, f"Müller_{path.name}")))
    assert config_of(photos)[1]["labeled"] == [f"Müller_{name}" for name in "abc"]


@pytest.mark.parametrize("ending, kind", [("jfif", "JPEG"), ("ppm", "PPM"), ("avif", "AVIF"), ("jp2", "JPEG2000")])
def test_what_pillow_opens_is_read(photos, ending, kind):
    path = photos / "unlabeled/images/d.png"
    Image.open(path).resize((64, 48)).save(path.with_suffix(f".{ending}"), kind)
    path.unlink()
    assert config_of(photos)[1]["unlabeled"] == ["d", "e", "f", "g"]


def turn_photo(path, turn):
    """Stores an upright photo so that EXIF turns it back."""
    exif = Image.Exif()
    exif[0x0112] = turn
    back = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90}[turn]
    with Image.open(path) as picture:
        picture.transpose(back).save(path.with_suffix(".jpg"), exif=exif, quality=95)
    path.unlink()
    return back


@pytest.mark.parametrize("turn, proven", [(3, False), (6, True)])
def test_masks_drawn_on_unturned_pixels_are_proven_by_size_or_shown_both_ways(photos, turn, proven, capsys):
    path = photos / "labeled/images/b.png"
    back = turn_photo(path, turn)
    with Image.open(photos / "labeled/masks/b.png") as mask:
        mask.transpose(back).save(photos / "labeled/masks/b.png")
    config, parts = config_of(photos)
    assert parts["labeled"] == ["a", "b", "c"] and config.data.exif == ("raw" if proven else "upright")
    said = " ".join(capsys.readouterr().out.split())
    if not proven:
        assert "1 photo with masks carry an EXIF turn that the sizes of the masks cannot prove, the first: b.jpg" in said
        assert (photos.parent / "mine.exif.png").is_file() and "data.exif=raw" in said
    row = load_sources(config.data).labeled[1]
    _, mask = read_pair(row, replace(config.data, exif="raw"), 3)
    assert np.array_equal(mask, ids())


def test_of_a_mask_as_png_and_as_jpeg_the_png_is_taken(images):
    for path in (images / "masks").glob("*.png"):
        Image.open(path).convert("RGB").save(path.with_suffix(".jpg"))
    assert sum(len(rows) for part, rows in config_of(images)[1].items() if part != "unlabeled") == 5


def test_ids_beside_a_palette_are_said_to_be_the_names_in_its_order(photos, capsys):
    for path in photos.rglob("masks/*.png"):
        save_mask(path, palette=False)
    write(photos / "palette.json", '{"bud": "#0000ff", "leaf": "#00ff00", "ground": "#ff0000"}')
    assert config_of(photos)[0].data.classes == ("bud", "leaf", "ground")
    said = " ".join(capsys.readouterr().out.split())
    assert "5 of 5 masks hold ids and no colours, the first: a.png; these ids are the names of the palette in its order" in said


def test_grey_masks_beside_a_palette_are_colours_unless_others_hold_ids(photos, capsys):
    write(photos / "palette.json", '{"leaf": "#ff0000", "ground": "#000000", "bud": "#ffffff"}')
    colours = np.array([[255, 0, 0], [0, 0, 0], [255, 255, 255]], np.uint8)
    for path in photos.rglob("masks/*.png"):
        Image.fromarray(colours[ids().clip(max=2)]).save(path)
    save_mask(photos / "labeled/masks/b.png", np.where(ids() == 1, 255, 0).astype(np.uint8), palette=False)
    config, parts = config_of(photos)
    mask = read_mask({"path": str(photos / "labeled/masks/b.png"), "bytes": None}, config.data, 3)
    assert parts["labeled"] == ["a", "b", "c"] and np.array_equal(mask, np.where(ids() == 1, 2, 1))
    [path.unlink() for path in photos.parent.glob("mine*")]
    save_mask(photos / "labeled/masks/c.png", palette=False)
    assert config_of(photos)[1]["labeled"] == ["a", "c"]
    assert "b.png is grey and may hold colours of the palette, or ids as others do; save it as RGB" in " ".join(capsys.readouterr().out.split())


def test_an_indexed_mask_in_greys_that_are_other_ids_is_refused(photos, capsys):
    for path in photos.rglob("masks/*.png"):
        save_mask(path, palette=False)
    mask = Image.fromarray(np.uint8(ids() == 2))
    mask.putpalette([0, 0, 0, 2, 2, 2])
    mask.save(photos / "labeled/masks/b.png")
    said = complaint(capsys, photos)
    assert "the id 1 is #010101 in" in said and "b.png: each has a palette of its own" in said


def test_a_list_keeps_images_of_one_stem_and_names_none_twice(photos, capsys):
    pairs = [("labeled", name) for name in "abc"] + [("val", name) for name in "hi"]
    for part, name in pairs:
        save_photo(photos / part / "images" / f"{name}.jpg", ord(name) + 100)
    lines = [f"photos/{part}/images/{name}.{kind}\tphotos/{part}/masks/{name}.png" for kind in ("jpg", "png") for part, name in pairs]
    write(photos.parent / "all.list", *lines)
    _, parts = config_of(photos.parent / "all.list")
    assert len(parts["labeled"]) == 6 and len(parts["validation"]) == 4
    [path.unlink() for path in photos.parent.glob("mine*")]
    write(photos.parent / "all.list", *lines, lines[-1])
    assert f"names {photos}/val/images/i.png twice; name each image once, with one mask" in complaint(capsys, photos.parent / "all.list")


def test_options_without_effect_and_a_pool_that_cannot_be_read_are_said(photos, capsys):
    for path in (photos / "unlabeled/images").iterdir():
        path.write_bytes(b"no picture")
    assert config_of(photos, "--seed", "3")[1]["unlabeled"] == []
    said = " ".join(capsys.readouterr().out.split())
    assert "--validation and --seed are not used: images for evaluation are there" in said and "d.png cannot be read" in said
    [path.unlink() for path in photos.parent.glob("mine*")]
    for path in (photos / "val/images").iterdir():
        path.write_bytes(b"no picture")
    assert "none of 2 evaluation images can be used: image" in complaint(capsys, photos)
    pattern = "labeled/images/[ab].png"
    assert f"--images is {pattern!r}; write a pattern in quotes" in complaint(capsys, photos, "--images", pattern, "--masks", "labeled/masks/*")


def test_an_image_of_both_lists_is_evaluated_on_and_said(images, capsys):
    write(images / "labeled.txt", "a", "b")
    write(images / "val.txt", "b", "h")
    assert config_of(images)[1] | {"unlabeled": []} == {"labeled": ["a"], "unlabeled": [], "validation": ["b", "h"]}
    assert "labelled and in the evaluation list, so evaluated on alone: 1 image, the first: b.png" in " ".join(capsys.readouterr().out.split())


def test_names_that_a_list_would_read_otherwise_are_written_so_that_it_does_not(images, capsys):
    for folder in ("images", "masks"):
        (images / folder / "a.png").rename(images / folder / "#a.png")
    for name in ("d", "e"):
        (images / "images" / f"{name}.png").rename(images / f" {name}.png")
    for path in (images / "images").glob("*.png"):
        path.rename(images / path.name)
    assert {"#a", " d"} <= set(sum(config_of(images)[1].values(), []))
    [path.unlink() for path in images.parent.glob("mine*")]
    (images / "f.png").rename(images / "f\tx.png")
    assert "the name 'f\\tx.png' has a tab or a line break, which no list can hold; rename the file" in complaint(capsys, images)


def test_masks_with_an_exif_turn_are_named(photos, capsys):
    turn = Image.Exif()
    turn[0x0112] = 3
    mask = Image.open(photos / "labeled/masks/b.png")
    mask.load()
    mask.save(photos / "labeled/masks/b.png", exif=turn)
    mask.save(photos / "labeled/masks/c.png", exif=b"no EXIF data")
    config_of(photos)
    assert "1 mask carries an EXIF turn, the first: b.png; it is not applied to masks" in " ".join(capsys.readouterr().out.split())


def test_labels_that_are_all_in_the_evaluation_set_are_refused(photos, capsys):
    shutil.rmtree(photos / "val")
    shutil.copytree(photos / "labeled", photos / "val")
    assert "every labelled image of" in complaint(capsys, photos)


def test_images_of_16_bits_get_their_levels(photos):
    for path in photos.rglob("images/*.png"):
        Image.fromarray(np.linspace(100, 4000, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.uint16)).save(path)
        path.write_bytes(path.read_bytes() + path.name.encode())  # no copies of each other
    levels = config_of(photos)[0].data.levels
    assert 100 < levels[0] < 110 and 3990 < levels[1] < 4000


def test_labels_alone_train_without_a_teacher(photos):
    shutil.rmtree(photos / "unlabeled")
    config, parts = config_of(photos)
    assert config.method.teacher == "none" and parts["unlabeled"] == []


def test_nothing_is_overwritten(photos, capsys):
    assert new_config(photos)[0] == 0
    content = (photos.parent / "mine.json").read_text()
    assert new_config(photos)[0] == 1
    assert "mine.json is there already; delete it, or give another name with -o" in capsys.readouterr().err
    assert (photos.parent / "mine.json").read_text() == content


def test_a_place_that_cannot_be_written_to_is_told_before_anything_is_looked_at(tmp_path, capsys):
    assert main([str(tmp_path / "no photos"), "-o", str(tmp_path / "none" / "mine.json")]) == 1
    assert f"the folder {tmp_path / 'none'} does not exist; make it, or give another place with -o" in capsys.readouterr().err


def test_a_folder_without_masks_is_told_what_was_found(tmp_path, capsys):
    (tmp_path / "photos" / "stuff").mkdir(parents=True)
    assert "has a mask; found: 0 images and no file that may be a mask (folders: stuff/); a mask has the name of" in complaint(
        capsys, tmp_path / "photos"
    )
    save_photo(tmp_path / "photos" / "images" / "a.png", 0)
    assert "no image in" in complaint(capsys, tmp_path / "photos")
    Image.new("L", (WIDTH, HEIGHT)).save(tmp_path / "photos" / "stuff" / "a.jpg")
    (tmp_path / "photos" / "stuff").rename(tmp_path / "photos" / "masks")
    assert "a.jpg is a JPEG inside, which smears the ids of neighbours" in complaint(capsys, tmp_path / "photos")


def test_more_than_255_classes_are_refused_before_anything_is_written(photos, capsys):
    names = [f"k{index}" for index in range(300)]
    assert "must be 2 to 255 different ones: 300 names" in complaint(capsys, photos, "--classes", *names)


def test_class_weights_are_those_of_enet_with_a_mean_pixel_of_1(photos):
    weights = config_of(photos, "--class-weights")[0].method.class_weights
    share = np.bincount(ids().ravel(), minlength=3)[:3] / (ids() != 255).sum()
    assert np.dot(weights, share) == pytest.approx(1, abs=1e-3)
    raw = 1 / np.log(1.02 + share)
    assert np.allclose(np.array(weights) / weights[0], raw / raw[0], atol=0.01)


def test_a_name_without_a_pixel_is_asked_about(photos, capsys):
    config_of(photos, "--classes", "ground", "leaf", "bud", "stem", "--ignore", "255")
    said = " ".join(capsys.readouterr().out.split())
    assert "stem (id 3) is in no mask: are the names and their order right?" in said and "rare among the labels" not in said


@pytest.mark.parametrize("encoder, repair", [("shape", "did you mean shapes?"), ("./no/folder", "use one of deit-tiny, ")])
def test_an_encoder_that_is_no_name_path_or_id_is_refused(photos, capsys, encoder, repair):
    said = complaint(capsys, photos, "--encoder", encoder)
    assert f"model.encoder = {encoder!r} is no known encoder, no file or folder here, and no id on the Hub such as OWNER/NAME; {repair}" in said


def test_an_encoder_of_this_machine_is_found_from_any_folder(photos, monkeypatch):
    SwinConfig().save_pretrained(photos.parent / "encoder")
    monkeypatch.chdir(photos.parent)
    model = config_of(photos, "--encoder", "encoder")[0].model
    assert (model.architecture, model.encoder) == ("upernet", str(photos.parent / "encoder"))


def test_the_share_of_a_small_class_does_not_flip_the_thresholds_and_each_value_has_its_reason_beside_it(photos, capsys):
    methods = []
    for pixels in (2, 60):  # of 384 pixels in each mask
        mask = ids()
        mask[mask == 2] = 0
        mask.flat[:pixels] = 2
        for name in "abc":
            save_mask(photos / "labeled" / "masks" / f"{name}.png", mask)
        methods.append(config_of(photos)[0].method)
        written = json.loads((photos.parent / "mine.json").read_text())["method"]
        for path in photos.parent.glob("mine*"):
            path.unlink()
    assert methods[0] == methods[1] and methods[0].thresholds == "per_class" and methods[0].threshold_spread == 1
    assert written["threshold_spread.note"].startswith("1 while 30 labelled images or fewer show the rarest class (here 3) and")
    keys = list(written)
    assert all(keys[place + 1] == f"{key}.note" for place, key in enumerate(keys) if not key.endswith(".note"))
    assert "method.thresholds = \"per_class\": with one for all, small classes get no pseudo labels" in capsys.readouterr().out


def test_what_was_decided_about_the_data_stands_beside_its_keys(images):
    write(images / "classes.txt", "ground", "leaf", "bud")
    assert new_config(images)[0] == 0
    data = json.loads((images.parent / "mine.json").read_text())["data"]
    assert data["root.note"].startswith("layout: a folder of masks; the first pair: images/")
    assert data["validation.note"] == "there is no val/: 1 of the 5 labelled images held out (seed 0)"
    assert data["classes.note"] == "the names are those of classes.txt"
    assert not {"source.note", "labeled.note", "unlabeled.note"} & data.keys()


def test_a_folder_that_is_not_there_is_told_with_what_to_give(tmp_path, capsys):
    assert "photoz; give the one that holds your photos" in complaint(capsys, tmp_path / "photoz")


def test_negative_ids_are_no_label(photos):
    for path in list(photos.rglob("masks/*.png")):
        Image.fromarray(np.where(ids() == 255, -1, ids()).astype(np.int32)).save(path.with_suffix(".tif"))
        path.unlink()
    config, parts = config_of(photos, "--classes", "ground", "leaf", "bud")
    mask = read_mask({"path": str(photos / "labeled/masks/a.tif"), "bytes": None}, config.data, 3)
    assert parts["labeled"] == ["a", "b", "c"] and np.array_equal(mask, ids())
