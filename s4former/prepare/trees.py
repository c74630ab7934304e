"""VOC 2012, Cityscapes and COCO 2017: from what can be downloaded to the folders that `layouts.py` reads.

Each function takes what is there already, unpacks or fetches what is missing, makes the masks, and counts. All of it
can be interrupted and run again. What it returns is the folder that training reads and the ids of its halves.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ..data.class_names import CITYSCAPES_TRAIN_IDS
from ..data.images import DECODE_ERRORS
from ..data.lists import find_images, read_text_lines
from ..errors import DataError, join_first
from . import sbd
from .coco_masks import instance_tasks, panoptic_tasks, write_masks
from .download import Archive, check_space, fetch, in_words, unpack
from .mask_files import in_parallel, save_ids

VOC = Archive(
    url="http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
    size=1_999_639_040, md5="6cd6e144f989b92b3379bac3b3de84fd", unpacked=1_999_639_040,
)  # fmt: skip
VOC_COUNTS = {"JPEGImages/*.jpg": 17125, "SegmentationClass/*.png": 2913}

CITYSCAPES_ZIPS = {"leftImg8bit": "leftImg8bit_trainvaltest.zip", "gtFine": "gtFine_trainvaltest.zip"}
CITYSCAPES_COUNTS = {"train": 2975, "val": 500, "test": 1525}

COCO = {
    "train2017": Archive(
        url="http://images.cocodataset.org/zips/train2017.zip",
        size=19_336_861_798, md5="cced6f7f71b7629ddf16f17bbcfab6b2", unpacked=19_400_000_000,
    ),
    "val2017": Archive(
        url="http://images.cocodataset.org/zips/val2017.zip",
        size=815_585_330, md5="442b8da7639aecaf257c1dceb8ba8c80", unpacked=820_000_000,
    ),
    "annotations": Archive(
        url="http://images.cocodataset.org/annotations/annotations_trainval2017.zip",
        size=252_907_541, md5="f4bbac642086de4f52a3fdda2de5fa2c", unpacked=850_000_000,
    ),
}  # fmt: skip
COCO_COUNTS = {"train2017": 118_287, "val2017": 5_000}
COCO_MASK_BYTES = 6_000  # of one mask, generously


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What the command line asks for."""

    root: Path
    archives: Path  # where archives lie, or are downloaded to
    download: bool = False
    processes: int = 1
    sbd: Path | None = None  # VOC
    masks: str = "instances"  # COCO: or 'panoptic'


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A benchmark that training can read."""

    tree: Path  # the folder that also holds splits/
    halves: dict[str, list[str]]  # origin -> ids of the images it names


# ---- VOC


def voc(wish: Wish, archive: Archive = VOC, counts: Mapping[str, int] = VOC_COUNTS) -> Ready:
    """VOCdevkit/VOC2012 as the official archive unpacks; SegmentationClassAug from SBD if that is given."""
    places = [wish.root / below for below in ("VOCdevkit/VOC2012", "VOC2012", "")]
    tree = next((place for place in places if (place / "JPEGImages").is_dir()), places[0])
    if wrong_counts(tree, counts):
        if not obtainable(wish, archive):
            raise DataError(not_there("VOC 2012", wrong_counts(tree, counts), archive.name, wish, archive))
        if tree.absolute().parts[-2:] != ("VOCdevkit", "VOC2012"):  # which is what the archive unpacks to
            tree = places[0]
        unpack(fetch(archive, wish.archives), tree.absolute().parents[1])
        check_counts(tree, counts, archive.name)
    if wish.sbd is not None:
        sbd.add_masks(wish.sbd, tree)
    lists = [tree / "ImageSets" / "Segmentation" / name for name in ("train.txt", "val.txt")]
    return Ready(tree=tree, halves={str(path): read_text_lines(path) for path in lists if path.is_file()})


# ---- Cityscapes


def cityscapes(wish: Wish, counts: Mapping[str, int] = CITYSCAPES_COUNTS) -> Ready:
    """leftImg8bit and gtFine as the official archives unpack, and a mask of the 19 train ids beside every labelIds."""
    for half, name in CITYSCAPES_ZIPS.items():
        kinds = ("leftImg8bit",) if half == "leftImg8bit" else ("gtFine_labelTrainIds", "gtFine_labelIds")
        needed = [{f"{half}/{part}/*/*_{kind}.png": counts[part] for part in ("train", "val")} for kind in kinds]
        if not all(wrong_counts(wish.root, each) for each in needed):
            continue
        if not (wish.archives / name).is_file():
            raise DataError(not_there("Cityscapes", wrong_counts(wish.root, needed[-1]), name, wish))
        unpack(wish.archives / name, wish.root)
        check_counts(wish.root, needed[-1], name)
    test = len(list(wish.root.glob("leftImg8bit/test/*/*_leftImg8bit.png")))
    if test not in (0, counts["test"]):  # nothing is trained or evaluated on it, so it may be missing
        raise DataError(f"{wish.root}/leftImg8bit/test has {test:,} images; Cityscapes has {counts['test']:,}, or none")
    raw = [path for part in ("train", "val") for path in wish.root.glob(f"gtFine/{part}/*/*_gtFine_labelIds.png")]
    raw = sorted(path for path in raw if not train_id_path(path).exists())
    if raw:
        check_space(wish.root, sum(path.stat().st_size for path in raw), "the masks of train ids")
        in_parallel(write_train_ids, raw, wish.processes, "masks of train ids")
    folders = {part: wish.root / "leftImg8bit" / part for part in ("train", "val")}
    ids = {str(path): list(find_images(path, flat=True, tags=("_leftImg8bit",))) for path in folders.values()}
    return Ready(tree=wish.root, halves=ids)


def train_id_path(path: Path) -> Path:
    return path.with_name(path.name.replace("_labelIds", "_labelTrainIds"))


def write_train_ids(path: Path) -> None:
    """Writes ..._labelTrainIds.png beside ..._labelIds.png; `DataError` for an id that Cityscapes does not have."""
    table = np.full(256, -1, np.int16)
    for raw, train in CITYSCAPES_TRAIN_IDS.items():
        table[int(raw)] = train
    try:
        with Image.open(path) as picture:
            ids = np.asarray(picture)
    except DECODE_ERRORS as error:
        raise DataError(f"{path} cannot be read: {error}; unpack {CITYSCAPES_ZIPS['gtFine']} again") from None
    if ids.ndim != 2 or ids.dtype != np.uint8 or table[ids].min() < 0:
        wrong = f"has the ids {join_first(sorted(set(ids[table[ids] < 0].tolist())))}" if ids.ndim == 2 else "holds colours"
        raise DataError(
            f"{path} {wrong}; labelIds of Cityscapes are 0 to {len(CITYSCAPES_TRAIN_IDS) - 1}; unpack"
            f" {CITYSCAPES_ZIPS['gtFine']} again"
        )
    save_ids(train_id_path(path), table[ids].astype(np.uint8))


# ---- COCO


def coco(wish: Wish, archives: Mapping[str, Archive] = COCO, counts: Mapping[str, int] = COCO_COUNTS) -> Ready:
    """train2017, val2017 and masks/ drawn from the annotations by the rules of `coco_masks.py`."""
    base = next((place for place in (wish.root, wish.root / "images") if (place / "train2017").is_dir()), wish.root)
    for half, count in counts.items():
        if wrong := wrong_counts(base, {f"{half}/*.jpg": count}):
            if not obtainable(wish, archives[half]):
                raise DataError(not_there("COCO 2017", wrong, archives[half].name, wish, archives[half]))
            unpack(fetch(archives[half], wish.archives), base)
            check_counts(base, {f"{half}/*.jpg": count}, archives[half].name)
    images = {half: list(find_images(base / half, flat=True)) for half in counts}
    make_masks(wish, archives["annotations"], images)
    return Ready(tree=wish.root, halves={str(base / half): ids for half, ids in images.items()})


def make_masks(wish: Wish, archive: Archive, images: Mapping[str, Sequence[str]]) -> None:
    """Masks for all images; a complete folder that somebody else made is accepted, half a one is refused.

    masks/made_from.txt says by which of the two rules the masks are made, so that no folder holds both.
    """
    folder = wish.root / "masks"
    marker, have = folder / "made_from.txt", set(find_images(folder, flat=True))
    rule = marker.read_text().strip() if marker.is_file() else ""
    lost = sum(name not in have for ids in images.values() for name in ids)
    if have and not rule:
        if lost:
            raise DataError(
                f"{folder} holds {len(have):,} masks not made here, and {lost:,} images have none; complete it, or move"
                " it away and masks are made from the annotations"
            )
        print(f"{folder} holds a mask for every image; by which rule they were made is not known")
        return
    if rule and rule != wish.masks:
        raise DataError(
            f"the masks in {folder} are made from {rule} annotations, not {wish.masks}; write --masks {rule}, or move"
            " them away"
        )
    if not lost:
        return
    files = {half: annotation_file(wish, archive, half) for half in images}
    check_space(wish.root, lost * COCO_MASK_BYTES, "the masks")
    folder.mkdir(exist_ok=True)
    marker.write_text(f"{wish.masks}\n")
    for half, path in files.items():
        tasks = TASKS[wish.masks](path, folder / half)
        missing = set(images[half]) - {task.mask.stem for task in tasks}
        if missing:
            raise DataError(
                f"{path} says nothing about {len(missing):,} images of {half}, the first: {min(missing)}; give the"
                " annotations of COCO 2017"
            )
        write_masks(tasks, wish.processes)


def annotation_file(wish: Wish, archive: Archive, half: str) -> Path:
    """The annotation file of a half, unpacked if it lies in an archive."""
    folder = wish.root / "annotations"
    path = folder / f"{wish.masks}_{half}.json"
    if wish.masks == "panoptic":
        outer, inner = wish.archives / "panoptic_annotations_trainval2017.zip", folder / f"panoptic_{half}.zip"
        if not path.is_file() and outer.is_file():
            unpack(outer, wish.root)
        if inner.is_file():
            unpack(inner, folder)
        if not path.is_file() or not path.with_suffix("").is_dir():
            raise DataError(not_there("COCO 2017", f"{path} and its folder of PNGs", outer.name, wish))
    elif not path.is_file():
        if not obtainable(wish, archive):
            raise DataError(not_there("COCO 2017", str(path), archive.name, wish, archive))
        unpack(fetch(archive, wish.archives), wish.root)
    return path


TASKS = {"instances": instance_tasks, "panoptic": panoptic_tasks}


# ---- what is there, and what to do if it is not


def wrong_counts(tree: Path, counts: Mapping[str, int]) -> str:
    """'…/JPEGImages/*.jpg: 3 of 17,125' for the first count that differs; empty if all agree."""
    for pattern, count in counts.items():
        found = sum(1 for _ in tree.glob(pattern))
        if found != count:
            return f"{tree}/{pattern}: {found:,} of {count:,}"
    return ""


def check_counts(tree: Path, counts: Mapping[str, int], archive: str) -> None:
    """`DataError` if an archive did not hold what it should."""
    if wrong := wrong_counts(tree, counts):
        raise DataError(f"after unpacking {archive}, other files are there than expected: {wrong}; get it again")


def obtainable(wish: Wish, archive: Archive) -> bool:
    """Whether an archive is at hand, or may be downloaded."""
    return wish.download or (wish.archives / archive.name).is_file()


def not_there(benchmark: str, what: str, name: str, wish: Wish, archive: Archive | None = None) -> str:
    """The sentence that says what is missing and how to get it."""
    way = f"get it from {HOME[benchmark]} and" if archive is None else ""
    other = f", or add --download ({in_words(archive.size)} from {archive.url})" if archive else ""
    return f"{benchmark} is not complete ({what}); {way} put {name} into {wish.archives}{other}".replace("  ", " ")


HOME = {
    "Cityscapes": "https://www.cityscapes-dataset.com/downloads/ (it needs a registration, so it is not fetched here)",
    "COCO 2017": "https://cocodataset.org/#download",
}
