"""Pseudo masks of the pool, and the ranking of the images worth labelling, by hand."""

import csv
import json
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from scripts import TINY
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from s4former.commands.evaluate import main as evaluate
from s4former.commands.pool import main
from s4former.commands.pool_ranking import FLOOR, Pool, rank
from s4former.commands.pool_masks import save_mask
from s4former.commands.pool_sheet import cvat_colours, labelme
from s4former.commands.predict import main as predict
from s4former.config import Data, from_dict, to_dict
from s4former.data.masks import raw_ids, read_mask, read_upright_mask
from s4former.evaluation.pictures import palette_png
from s4former.networks.build import save_network
from s4former.rasterize.command import main as rasterize_main


def pool_of(**images):
    """Images of 10 pixels given as runs of (class, pixels, confidence)."""
    pool = Pool()
    for name, runs in images.items():
        labels = np.array([label for label, pixels, _ in runs for _ in range(pixels)]).reshape(2, 5)
        confidence = np.array([probability for _, pixels, probability in runs for _ in range(pixels)]).reshape(2, 5)
        pool.add(name, labels, confidence, confidence > 0.9, classes=3)
    return pool


def order(pool, top=9):
    return [pool.ids[index] for index, _ in rank(pool, top)]


def test_shares_doubts_and_pseudo_labels_are_counted_by_class():
    pool = pool_of(a=[(0, 5, 1.0), (1, 3, 0.5), (2, 2, 0.95)])
    assert pool.shares[0] == pytest.approx([0.5, 0.3, 0.2])
    assert pool.doubts[0] == pytest.approx([0, 0.15, 0.01])
    assert pool.pseudo[0] == pytest.approx([0.5, 0, 0.2])


def test_an_image_of_low_confidence_comes_before_one_of_high_confidence():
    assert order(pool_of(certain=[(0, 10, 0.99)], unsure=[(0, 10, 0.6)], less=[(0, 10, 0.8)])) == ["unsure", "less", "certain"]


def test_the_same_doubt_about_a_rarer_class_comes_first():
    seen = {f"seen{i}": [(0, 10, 1.0)] for i in range(4)}
    assert order(pool_of(common=[(0, 10, 0.6)], rare=[(1, 10, 0.6)], **seen))[:2] == ["rare", "common"]


def test_an_image_like_those_listed_before_it_counts_less():
    pool = pool_of(first=[(1, 10, 0.5)], twin=[(1, 10, 0.51)], other=[(2, 10, 0.6)])
    assert order(pool) == ["first", "other", "twin"]


def test_worth_by_hand():
    pool = pool_of(a=[(0, 10, 1.0)], b=[(0, 5, 0.5), (1, 5, 0.8)])
    (index, worth), _ = rank(pool, 2)
    assert pool.ids[index] == "b"
    assert worth == pytest.approx(0.25 / (FLOOR + 1) ** 0.5 + 0.1 / FLOOR**0.5)


def test_what_is_listed_is_seen_once_though_it_had_pseudo_labels():
    pool = pool_of(half=[(0, 5, 1.0), (1, 5, 0.5)], other=[(0, 10, 0.6)])
    ranked = rank(pool, 2)
    assert [pool.ids[index] for index, _ in ranked] == ["half", "other"]
    assert ranked[1][1] == pytest.approx(0.4 / (FLOOR + 0.5) ** 0.5)  # half an image of class 0 is seen, not a whole one


def test_the_list_is_not_longer_than_the_pool_nor_than_asked():
    pool = pool_of(a=[(0, 10, 0.5)], b=[(1, 10, 0.5)])
    assert len(rank(pool, 1)) == 1 and len(rank(pool, 9)) == 2 and rank(Pool(), 9) == []


@pytest.fixture
def run(tmp_path):
    """A run whose data are a folder: two labelled photos, three without mask, one of them broken."""
    root = tmp_path / "photos"
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True)
    for index in range(6):
        noise = np.random.default_rng(index).normal(128, 60 + 20 * index, (16, 24)).clip(0, 255)
        Image.fromarray(noise.astype(np.uint8)).convert("RGB").save(root / "images" / f"{index}.png")
    for index in range(3):
        Image.new("L", (24, 16), index % 3).save(root / "masks" / f"{index}.png")
    (root / "images" / "5.png").write_bytes(b"no picture")
    (root / "labeled.txt").write_text("0\n1\n")
    (root / "validation.txt").write_text("2\n")
    data = {**TINY["data"], "source": "folder", "root": str(root), "classes": ["ground", "leaf", "bud"]}
    data |= {"labeled": "labeled.txt", "validation": "validation.txt"}
    data.pop("shapes")
    tree = {**TINY, "data": data, "method": {**TINY["method"], "threshold": 0.4}, "evaluation": {"short_side": 0}}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps(to_dict(from_dict(tree))))
    torch.manual_seed(0)
    sizes = {"hidden_sizes": [8, 8, 16, 16], "depths": [1] * 4, "num_attention_heads": [1, 1, 2, 2], "decoder_hidden_size": 8}
    network = SegformerForSemanticSegmentation(SegformerConfig(num_labels=3, **sizes)).eval()
    torch.manual_seed(1)
    torch.nn.init.normal_(network.decode_head.classifier.weight, std=20.0)  # so that it is sure of some pixels
    save_network(network, tmp_path / "run" / "teacher", (0.5,) * 3, (0.5,) * 3, 0)
    return tmp_path / "run"


def test_the_whole_pool_gets_masks_and_confidence_and_unreadable_images_are_reported(run, tmp_path, capsys):
    assert main([str(run), "-o", str(tmp_path / "pool")]) == 1
    output = capsys.readouterr()
    assert "pseudo masks of 2 images" in output.out and "5.png cannot be read" in output.err
    assert sorted(path.name for path in (tmp_path / "pool" / "masks").iterdir()) == ["3.png", "4.png"]
    for name in ("3.png", "4.png"):
        with (
            Image.open(tmp_path / "pool" / "masks" / name) as mask,
            Image.open(tmp_path / "pool" / "confidence" / name) as grey,
        ):
            labels, confidence = np.array(mask), np.array(grey) / 255
            assert mask.mode == "P" and labels.shape == (16, 24)
        assert (labels[confidence < 0.395] == 255).all() and (labels[confidence > 0.405] < 3).all()
        assert (confidence > 0.405).any() and ((confidence < 0.395).any() or name == "3.png")
    with open(tmp_path / "pool" / "worth_labelling.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["rank"] for row in rows] == ["1", "2"] and {row["id"] for row in rows} == {"3", "4"}


def test_masks_that_somebody_drew_or_changed_are_never_written_over(run, tmp_path, capsys):
    drawn = [path.read_bytes() for path in sorted((run.parent / "photos" / "masks").iterdir())]
    photos, refused = str(run.parent / "photos"), "masks holds 0.png, which this command did not write, or somebody has changed since"
    for command, arguments in (
        (main, [str(run), "-o", photos]), (evaluate, ["--checkpoint", str(run), "--save-predictions", photos]),
        (predict, [f"{photos}/images/*.png", "-o", photos, "--checkpoint", str(run)]),
    ):  # fmt: skip
        assert command(arguments) == 1 and refused in capsys.readouterr().err
    assert [path.read_bytes() for path in sorted((run.parent / "photos" / "masks").iterdir())] == drawn
    for path in sorted((run.parent / "photos" / "masks").iterdir()):  # as `rasterize` writes what somebody drew
        with Image.open(path) as mask:
            palette_png(np.array(mask), path, {"ground": 0, "leaf": 1, "bud": 2})
    assert main([str(run), "-o", photos]) == 1 and refused in capsys.readouterr().err
    (tmp_path / "own" / "confidence").mkdir(parents=True)
    Image.new("L", (24, 16)).save(tmp_path / "own" / "confidence" / "9.png")
    assert main([str(run), "-o", str(tmp_path / "own")]) == 1 and "confidence holds 9.png" in capsys.readouterr().err
    predict([f"{photos}/images/4.png", "-o", str(tmp_path / "seen"), "--checkpoint", str(run)])
    assert main([str(run), "-o", str(tmp_path / "seen")]) == 1 and "masks holds 4.png" in capsys.readouterr().err  # no pool
    assert predict([f"{photos}/images/4.png", "-o", str(tmp_path / "seen"), "--checkpoint", str(run)]) == 0
    assert main([str(run), "-o", str(tmp_path / "pool")]) == 1
    with Image.open(tmp_path / "pool" / "masks" / "3.png") as mask:
        Image.fromarray(np.array(mask)).save(tmp_path / "pool" / "masks" / "3.png")  # as a tool does
    assert main([str(run), "-o", str(tmp_path / "pool")]) == 1 and "masks holds 3.png" in capsys.readouterr().err


def test_a_pool_that_has_become_smaller_leaves_no_older_masks(run, tmp_path):
    assert main([str(run), "-o", str(tmp_path / "pool")]) == 1
    (run.parent / "photos" / "labeled.txt").write_text("0\n1\n3\n")
    Image.new("L", (24, 16), 1).save(run.parent / "photos" / "masks" / "3.png")
    assert main([str(run), "-o", str(tmp_path / "pool")]) == 1
    for name in ("masks", "confidence"):
        assert [path.name for path in (tmp_path / "pool" / name).iterdir()] == ["4.png"]


@pytest.mark.parametrize("turn", [3, 6, 8])
def test_masks_of_the_pool_lie_on_the_stored_pixels_where_those_of_the_data_do(run, tmp_path, turn):
    photo = run.parent / "photos" / "images" / "4.png"
    exif = Image.Exif()
    exif[0x0112] = turn
    with Image.open(photo) as image:
        image.save(photo.with_suffix(".jpg"), exif=exif, quality=95)
    photo.unlink()
    assert main([str(run), "-o", str(tmp_path / "upright")]) == 1
    assert main([str(run), "-o", str(tmp_path / "raw"), "data.exif=raw"]) == 1
    data = Data(classes=("ground", "leaf", "bud"), exif="raw")
    rows = {name: {"image": encoded(photo.with_suffix(".jpg")), "mask": encoded(tmp_path / name / "masks" / "4.png")} for name in ("upright", "raw")}
    upright = read_mask(rows["upright"]["mask"], data, 3)
    assert len(np.unique(upright)) > 1 and np.array_equal(read_upright_mask(rows["raw"], data, 3), upright)


def encoded(path):
    return {"path": str(path), "bytes": None}


def test_cvat_gets_colours_that_tell_all_classes_apart():
    classes = ("car", "truck", "clutter")
    plain = cvat_colours(classes, Data())
    for colours in (("#00008e", "#00008e", "#ffffff"), ("#ff0000", "#00ff00", "#000000")):
        assert np.array_equal(cvat_colours(classes, Data(colours=colours)), plain)
    assert cvat_colours(classes, Data(colours=("#010203", "#00ff00", "#0000ff"))).tolist() == [[1, 2, 3], [0, 255, 0], [0, 0, 255]]
    assert cvat_colours(("background", "car"), Data(colours=("#ffffff", "#ff0000"))).tolist() == [[0, 0, 0], [255, 0, 0]]
    assert len({*map(tuple, plain.tolist()), (0, 0, 0)}) == 4


def test_the_thresholds_per_class_of_a_run_are_those_of_its_pool(run, tmp_path):
    tree = json.loads((run / "config.json").read_text())
    tree["method"]["thresholds"] = "per_class"
    (run / "config.json").write_text(json.dumps(tree))
    (run / "teacher" / "thresholds.json").write_text("[1.0, 0.0, 1.0]")
    main([str(run), "-o", str(tmp_path / "pool")])
    found = np.stack([np.array(Image.open(path)) for path in sorted((tmp_path / "pool" / "masks").iterdir())])
    main([str(run), "-o", str(tmp_path / "all"), "method.thresholds=fixed", "method.threshold=0"])
    everything = np.stack([np.array(Image.open(path)) for path in sorted((tmp_path / "all" / "masks").iterdir())])
    assert (everything < 3).all() and (everything == 1).any() and (everything != 1).any()
    assert (found == np.where(everything == 1, 1, 255)).all()


@pytest.mark.parametrize(
    "changes",
    [
        {"id_map": {"0": 255, "7": 0, "255": 1, "3": 2}, "ignore_index": 0},
        {"id_map": {"1000": 1}},
        {"palette": {"#000000": 2, "#ff0000": 0, "#00ff00": 1, "#0000ff": 3}, "id_map": {"3": 255}},
        {"palette": {"#000000": 2, "#ff0000": 0, "#00ff00": 1, "#0000ff": 255}, "colours": ("#010203",)},
        {"id_map": {"7": 0}, "colours": ("#010203", "", "#ff0000")},
    ],
)
def test_the_masks_of_the_pool_are_read_back_with_the_config_of_the_data(tmp_path, changes):
    data, labels = Data(**changes), np.array([[0, 1, 2, 255]])
    raw = raw_ids(data, 3)
    ids = {name: int(raw[index]) for name, index in (("a", 0), ("b", 1), ("c", 2), ("", 255))}
    save_mask(tmp_path / "m.png", labels, data, ids)
    assert np.array_equal(read_mask({"path": str(tmp_path / "m.png"), "bytes": None}, data, 3), labels)
    if data.colours and not data.palette:
        assert np.asarray(Image.open(tmp_path / "m.png").convert("RGB"))[0, [0, 2]].tolist() == [[1, 2, 3], [255, 0, 0]]


def test_a_folder_that_cannot_be_written_is_reported(run, tmp_path, capsys):
    (tmp_path / "pool").write_text("a file")
    assert main([str(run), "-o", str(tmp_path / "pool")]) == 1
    assert str(tmp_path / "pool") in capsys.readouterr().err.splitlines()[-1]


def test_a_model_without_a_run_is_refused(run, tmp_path, capsys):
    (tmp_path / "plain").mkdir()
    for path in (run / "teacher").iterdir():
        (tmp_path / "plain" / path.name).write_bytes(path.read_bytes())
    assert main([str(tmp_path / "plain"), "-o", str(tmp_path / "pool")]) == 1
    assert "does not say what its data are" in capsys.readouterr().err


def test_a_missing_run_is_not_asked_of_the_hub(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["runs/min", "-o", "pool"]) == 1
    assert capsys.readouterr().err == "s4former pool: there is no folder runs/min; give a run, or a model of one\n"


def test_the_list_is_drawn_and_copied_with_prelabels_that_labelling_tools_load(run, tmp_path, capsys):
    assert main([str(run), "-o", str(tmp_path / "pool"), "--copy-to", str(tmp_path / "next")]) == 1  # one image is broken
    assert f"to correct: labelme {tmp_path / 'next' / 'JPEGImages'}" in capsys.readouterr().out
    with Image.open(tmp_path / "pool" / "worth_labelling.png") as sheet:
        assert sheet.width > 600
    images = tmp_path / "next" / "JPEGImages"
    assert sorted(path.name for path in images.iterdir()) == ["3.json", "3.png", "4.json", "4.png"]
    assert (images / "3.png").read_bytes() == (run.parent / "photos" / "images" / "3.png").read_bytes()
    assert (tmp_path / "next" / "labelmap.txt").read_text().splitlines()[:2] == ["# label:color_rgb:parts:actions", "background:0,0,0::"]
    with zipfile.ZipFile(tmp_path / "next" / "cvat.zip") as archive:
        assert sorted(archive.namelist()) == [
            "ImageSets/Segmentation/default.txt", "SegmentationClass/3.png", "SegmentationClass/4.png", "labelmap.txt",
        ]  # fmt: skip
        assert sorted(archive.read("ImageSets/Segmentation/default.txt").split()) == [b"3", b"4"]
    content = json.loads((images / "3.json").read_text())
    assert content["imagePath"] == "3.png" and (content["imageHeight"], content["imageWidth"]) == (16, 24)
    assert {shape["label"] for shape in content["shapes"]} <= {"ground", "leaf", "bud"} and content["shapes"]
    assert main([str(run), "-o", str(tmp_path / "pool"), "--copy-to", str(tmp_path / "next")]) == 1
    assert f"{tmp_path / 'next'} is not empty; give another folder to copy to" in capsys.readouterr().err


def test_ids_that_differ_in_a_folder_alone_keep_their_predictions_apart(run, tmp_path):
    images = run.parent / "photos" / "images"
    for folder, mask in ((images, "4.png"), (images.parent / "masks", "1.png")):
        (folder / "p").mkdir()
        for name, source in (("p/q.png", "2.png"), ("p__q.png", mask)):
            (folder / name).write_bytes((folder / source).read_bytes())
    (images.parent / "validation.txt").write_text("p/q\np__q\n")
    assert evaluate(["--checkpoint", str(run), "--save-predictions", str(tmp_path / "seen")]) == 0
    assert sorted(path.name for path in (tmp_path / "seen" / "masks").iterdir()) == ["p__q-2.png", "p__q.png"]
    (images.parent / "validation.txt").write_text("2\n")
    assert main([str(run), "-o", str(tmp_path / "pool"), "--copy-to", str(tmp_path / "next")]) == 1
    for folder in ("pool/masks", "pool/confidence", "next/SegmentationClass"):
        assert sorted(path.name for path in (tmp_path / folder).iterdir()) == ["3.png", "4.png", "p__q-2.png", "p__q.png"]
    assert (tmp_path / "next" / "JPEGImages" / "p__q-2.png").read_bytes() == (images / "p__q.png").read_bytes()


def test_a_mask_as_labelme_and_drawn_again_by_rasterize_is_the_same(tmp_path):
    classes, mask = ("background", "leaf", "bud"), np.zeros((60, 80), np.uint8)
    mask[10:50, 20:70] = 1
    mask[20:40, 30:60] = 0  # a hole, and in it an island
    mask[25:35, 40:50] = 2
    mask[:12, :12] = 2
    (tmp_path / "a.json").write_text(json.dumps(labelme(mask, classes, "a.png")))
    Image.new("RGB", (80, 60)).save(tmp_path / "a.png")
    assert [shape["label"] for shape in json.loads((tmp_path / "a.json").read_text())["shapes"]] == ["leaf", "background", "bud", "bud"]
    assert rasterize_main([str(tmp_path), "-o", str(tmp_path / "masks")]) == 0
    with Image.open(tmp_path / "masks" / "a.png") as drawn:
        ids = json.loads(drawn.info["s4former"])
        assert np.array_equal(np.array(drawn), np.array([ids[name] for name in classes])[mask])
