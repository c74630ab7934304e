"""trees.py and command.py: tiny archives of the official layout become what training reads."""

import hashlib
import io
import json
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from folders import HEIGHT, WIDTH, error_message, ids, save_image, save_mask, write
from PIL import Image
from web_server import online, packed

from s4former.config import Data
from s4former.data.class_names import COCO_CLASSES
from s4former.data.lists import list_fingerprint
from s4former.data.published import PUBLISHED
from s4former.data.sources import check_masks, load_sources
from s4former.prepare import command, trees
from s4former.prepare.download import Archive
from s4former.prepare.trees import cityscapes, coco, collect_lists, voc

TRAIN, VAL = ["2007_000001", "2007_000002"], ["2007_000003"]
VOC_COUNTS = {"JPEGImages/*.jpg": 4, "SegmentationClass/*.png": 3}


@pytest.fixture
def server(tmp_path, monkeypatch):
    with online(monkeypatch, tmp_path / "web") as server:
        yield server


@pytest.fixture
def known(monkeypatch):
    """The tiny VOC's lists stand for published ones."""
    lists = {"voc_classic/1464": TRAIN, "voc_val_1449": VAL, "voc_classic/92": TRAIN[:1], "voc_classic/183": TRAIN[1:]}
    pool = {"voc_train_aug_10582": [*TRAIN, "2007_000004"]}
    for name, names in (lists | pool).items():
        monkeypatch.setitem(PUBLISHED, name, list_fingerprint(names))


def in_memory(picture, kind="PNG"):
    file = io.BytesIO()
    Image.fromarray(picture).save(file, kind)
    return file.getvalue()


PHOTO = in_memory(np.full((HEIGHT, WIDTH, 3), 90, np.uint8), "JPEG")
MASK = in_memory(ids())


def file_facts(path, url):
    content = path.read_bytes()
    return Archive(url=f"{url}/{path.name}", size=len(content), md5=hashlib.md5(content).hexdigest())


@pytest.fixture
def voc_archive(server, tmp_path):
    """The official tar on the server, with four images."""
    below = "VOCdevkit/VOC2012"
    files = {f"{below}/JPEGImages/{name}.jpg": PHOTO for name in [*TRAIN, *VAL, "2007_000004"]}
    files |= {f"{below}/SegmentationClass/{name}.png": MASK for name in [*TRAIN, *VAL]}
    for half, names in {"train": TRAIN, "val": VAL}.items():
        files[f"{below}/ImageSets/Segmentation/{half}.txt"] = "".join(f"{name}\n" for name in names).encode()
    return file_facts(packed(tmp_path / "web" / "VOCtrainval_11-May-2012.tar", files), server.url)


def options(root, **changes):
    defaults = {"root": root, "archives": root, "download": False, "processes": 1, "sbd": None}
    return Namespace(**defaults | changes)


# ---- VOC


def test_voc_is_downloaded_unpacked_and_trained_on_without_sbd(voc_archive, server, known, tmp_path):
    server.troubles = [100]  # the first connection breaks off
    prepared = voc(options(tmp_path / "data", download=True), voc_archive, VOC_COUNTS)
    assert prepared.root == tmp_path / "data" / "VOCdevkit" / "VOC2012"
    assert list(prepared.splits.values()) == [TRAIN, VAL]
    write(tmp_path / "mine" / "pascal" / "92" / "labeled.txt", f"JPEGImages/{TRAIN[0]}.jpg SegmentationClass/x.png")
    write(tmp_path / "mine" / "pascal" / "92" / "unlabeled.txt", TRAIN[1], "2007_000004")
    lists = collect_lists("voc", prepared, tmp_path / "mine")
    assert lists == ["voc_classic/92", "voc_classic/1464", "voc_train_aug_10582", "voc_val_1449"]
    data = Data(
        source="voc", root=str(tmp_path / "data" / "VOCdevkit"), labeled="splits/voc_classic/92.txt",
        unlabeled="splits/voc_train_aug_10582.txt", validation="splits/voc_val_1449.txt",
    )  # fmt: skip
    sources = load_sources(data)
    assert sources.unlabeled["id"][:] == [TRAIN[1], "2007_000004"]
    assert "labelled list: voc_classic/92" in sources.notes
    check_masks(sources, data)
    write(prepared.root / "splits" / "voc_classic" / "92.txt", TRAIN[1])
    assert error_message(load_sources, data) == (
        "data.labeled is 'splits/voc_classic/92.txt': this is not voc_classic/92, of 1 ids, but voc_classic/183; get the right"
        " list, or give yours another name"
    )


def test_what_is_complete_needs_no_archive_and_no_server(voc_archive, server, tmp_path):
    root = tmp_path / "data"
    voc(options(root, download=True), voc_archive, VOC_COUNTS)
    (root / "VOCtrainval_11-May-2012.tar").unlink()
    server.asked.clear()
    for place in (root, root / "VOCdevkit", root / "VOCdevkit" / "VOC2012"):
        assert voc(options(place), voc_archive, VOC_COUNTS).root == root / "VOCdevkit" / "VOC2012"
    assert not server.asked


def test_an_archive_that_lies_there_is_unpacked_and_fills_what_is_missing(voc_archive, server, tmp_path):
    root = tmp_path / "data"
    tree = voc(options(root, archives=tmp_path / "web"), voc_archive, VOC_COUNTS).root
    (tree / "JPEGImages" / f"{TRAIN[0]}.jpg").unlink()
    assert voc(options(root / "VOCdevkit", archives=tmp_path / "web"), voc_archive, VOC_COUNTS).root == tree
    assert (tree / "JPEGImages" / f"{TRAIN[0]}.jpg").is_file() and not server.asked


def test_what_a_user_added_or_corrected_stays(voc_archive, tmp_path):
    tree = voc(options(tmp_path / "data", archives=tmp_path / "web"), voc_archive, VOC_COUNTS).root
    mask = next((tree / "SegmentationClass").iterdir())
    mask.write_bytes(b"corrected")
    (tree / "JPEGImages" / "own.jpg").write_bytes(b"photo")
    assert voc(options(tmp_path / "data", archives=tmp_path / "web"), voc_archive, VOC_COUNTS).root == tree
    assert mask.read_bytes() == b"corrected"


def test_without_an_archive_and_a_download_the_way_is_said(tmp_path):
    assert error_message(voc, options(tmp_path)) == (
        f"files of VOCtrainval_11-May-2012.tar are missing ({tmp_path}/VOCdevkit/VOC2012/JPEGImages/*.jpg: 0 of 17,125),"
        f" and so is the archive; put it into {tmp_path}, or add --download (1.86 GiB from"
        " http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar)"
    )


def test_an_archive_with_other_files_is_refused(voc_archive, tmp_path):
    counts = {"JPEGImages/*.jpg": 5}
    message = error_message(voc, options(tmp_path / "data", archives=tmp_path / "web"), voc_archive, counts)
    assert message.startswith("after unpacking VOCtrainval_11-May-2012.tar, files are still missing: ")
    assert message.endswith("/JPEGImages/*.jpg: 4 of 5; get it again")


# ---- Cityscapes

CITYSCAPES_COUNTS = {"train": 2, "val": 1}
NAMES = {"train/jena": ["jena_000000_000019", "jena_000001_000019"], "val/lindau": ["lindau_000000_000019"]}


def cityscapes_zips(folder, raw):
    photos = {f"leftImg8bit/{place}/{n}_leftImg8bit.png": PHOTO for place, names in NAMES.items() for n in names}
    masks = {f"gtFine/{place}/{n}_gtFine_labelIds.png": in_memory(raw) for place, names in NAMES.items() for n in names}
    folder.mkdir()
    packed(folder / "leftImg8bit_trainvaltest.zip", photos)
    packed(folder / "gtFine_trainvaltest.zip", masks)


def test_cityscapes_is_unpacked_and_trained_on(tmp_path):
    raw = np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH) % 34
    cityscapes_zips(tmp_path / "zips", raw)
    root = tmp_path / "data"
    root.mkdir()
    prepared = cityscapes(options(root, archives=tmp_path / "zips"), CITYSCAPES_COUNTS)
    assert list(prepared.splits.values()) == list(NAMES.values())
    write(tmp_path / "labeled.txt", "jena_000001_000019")
    data = Data(source="cityscapes", root=str(root), labeled=str(tmp_path / "labeled.txt"))
    sources = load_sources(data)
    assert (len(sources.unlabeled), len(sources.validation)) == (1, 1)
    check_masks(sources, data)


def test_cityscapes_is_never_downloaded_and_says_where_it_is(tmp_path):
    assert error_message(cityscapes, options(tmp_path, download=True)) == (
        f"files of leftImg8bit_trainvaltest.zip are missing ({tmp_path}/leftImg8bit/train/*/*_leftImg8bit.png: 0 of 2,975),"
        f" and so is the archive; put it into {tmp_path}; get it from"
        " https://www.cityscapes-dataset.com/downloads/ (it needs a registration, so it is not fetched here)"
    )


def test_a_cityscapes_folder_with_train_ids_alone_is_accepted(tmp_path):
    for place, names in NAMES.items():
        for name in names:
            save_image(tmp_path / "leftImg8bit" / place / f"{name}_leftImg8bit.png")
            save_mask(tmp_path / "gtFine" / place / f"{name}_gtFine_labelTrainIds.png")
    cityscapes(options(tmp_path), CITYSCAPES_COUNTS)


# ---- COCO

COCO_COUNTS = {"train2017": 2, "val2017": 1}
COCO_IMAGES = {"train2017": (1, 2), "val2017": (3,)}


@pytest.fixture
def coco_archives(server, tmp_path):
    """The three official zips on the server: in image i, a person covers the first i columns."""
    categories = [{"id": i, "name": name} for i, name in enumerate(COCO_CLASSES) if i]
    annotations, archives = {}, {}
    for half, numbers in COCO_IMAGES.items():
        photos = {f"{half}/{i:012d}.jpg": PHOTO for i in numbers}
        archives[half] = file_facts(packed(tmp_path / "web" / f"{half}.zip", photos), server.url)
        content = {
            "images": [{"id": i, "file_name": f"{i:012d}.jpg", "height": HEIGHT, "width": WIDTH} for i in numbers],
            "categories": categories,
            "annotations": [
                {"image_id": i, "category_id": 1, "area": 9, "segmentation": [[0, 0, i, 0, i, 16, 0, 16]]}
                for i in numbers
            ],
        }
        annotations[f"annotations/instances_{half}.json"] = json.dumps(content)
    path = packed(tmp_path / "web" / "annotations_trainval2017.zip", annotations)
    return {**archives, "annotations": file_facts(path, server.url)}


def test_coco_is_downloaded_and_gets_masks(coco_archives, tmp_path):
    root = tmp_path / "coco"
    coco(options(root, download=True), coco_archives, COCO_COUNTS)
    with Image.open(root / "masks" / "train2017" / "000000000002.png") as mask:
        assert np.asarray(mask)[0].tolist() == [1, 1] + [0] * 22
    (root / "masks" / "val2017" / "000000000003.png").unlink()  # as if it had been interrupted
    prepared = coco(options(root), coco_archives, COCO_COUNTS)
    assert list(prepared.splits.values()) == [["000000000001", "000000000002"], ["000000000003"]]
    write(tmp_path / "labeled.txt", "train2017/000000000001.jpg masks/000000000001.png")
    data = Data(source="coco", root=str(root), labeled=str(tmp_path / "labeled.txt"))
    sources = load_sources(data)
    assert (len(sources.unlabeled), len(sources.validation)) == (1, 1)
    check_masks(sources, data)


def test_ready_masks_are_accepted_if_every_image_has_one(coco_archives, tmp_path):
    root = tmp_path / "coco"
    for half, numbers in COCO_IMAGES.items():
        for i in numbers:
            save_image(root / half / f"{i:012d}.jpg")
    save_mask(root / "masks" / "000000000001.png")
    assert error_message(coco, options(root), coco_archives, COCO_COUNTS) == (
        f"{root}/masks holds 1 masks not made here, and 2 images have none; complete it, or move it away and masks are"
        " made from the annotations"
    )
    save_mask(root / "masks" / "000000000002.png")
    save_mask(root / "masks" / "000000000003.png")
    coco(options(root), coco_archives, COCO_COUNTS)
    assert not (root / "annotations").exists()


# ---- the command


def test_the_command_prepares_and_says_how_to_go_on(voc_archive, known, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(trees.PREPARE, "voc", lambda options: voc(options, voc_archive, VOC_COUNTS))
    command.main(["voc", "--archives", "web"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "verifying web/VOCtrainval_11-May-2012.tar"
    assert lines[1:4] == [
        "voc is ready in data/VOCdevkit/VOC2012",
        "       2 images  data/VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt",
        "       1 images  data/VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt",
    ]
    assert lines[4] == "published lists, verified: voc_classic/1464, voc_val_1449"
    assert lines[5].startswith("not here (--lists FOLDER brings them): voc_classic/92, ")
    assert lines[6] == "train: accelerate launch train_semi.py --config configs/voc_92.json data.root=data/VOCdevkit/VOC2012"


def test_the_command_says_what_is_missing_in_one_line(tmp_path, capsys):
    assert command.main(["cityscapes", "--root", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("s4former prepare: files of leftImg8bit_trainvaltest.zip are missing (")


def test_every_config_finds_its_lists_where_they_are_put():
    for path in (Path(__file__).parent.parent.parent / "configs").rglob("*.json"):
        data = json.loads(path.read_text()).get("data", {})
        for key in ("labeled", "unlabeled", "validation"):
            value = data.get(key, "")
            if value.startswith("splits/"):
                assert value.removeprefix("splits/").removesuffix(".txt") in PUBLISHED, f"{path.name}: data.{key}"
