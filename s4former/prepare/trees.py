"""VOC 2012, Cityscapes and COCO 2017: from what can be downloaded to the folders that `layouts.py` reads.

Each function takes the options of `command.py` and what is there, unpacks or downloads what is missing, makes the masks,
and counts. It can be interrupted and run again.
"""

from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ..data.lists import find_images
from ..data.published import PUBLISHED, find_published_lists, identify_list, list_ids
from ..errors import DataError, gibibytes
from ..files import write_text
from . import sbd
from .coco_masks import instance_tasks, write_masks
from .download import Archive, fetch, unpack

VOC = Archive(
    url="http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
    size=1_999_639_040, md5="6cd6e144f989b92b3379bac3b3de84fd",
)  # fmt: skip
VOC_COUNTS = {"JPEGImages/*.jpg": 17125, "SegmentationClass/*.png": 2913}

REGISTRATION = "https://www.cityscapes-dataset.com/downloads/ (it needs a registration, so it is not fetched here)"
CITYSCAPES_IMAGES = Archive(url="leftImg8bit_trainvaltest.zip", page=REGISTRATION)
CITYSCAPES_MASKS = Archive(url="gtFine_trainvaltest.zip", page=REGISTRATION)
CITYSCAPES_COUNTS = {"train": 2975, "val": 500}

COCO = {
    name: Archive(url=f"http://images.cocodataset.org/{path}", size=size, md5=md5)
    for name, path, size, md5 in (
        ("train2017", "zips/train2017.zip", 19_336_861_798, "cced6f7f71b7629ddf16f17bbcfab6b2"),
        ("val2017", "zips/val2017.zip", 815_585_330, "442b8da7639aecaf257c1dceb8ba8c80"),
        ("annotations", "annotations/annotations_trainval2017.zip", 252_907_541, "f4bbac642086de4f52a3fdda2de5fa2c"),
    )
}
COCO_COUNTS = {"train2017": 118_287, "val2017": 5_000}


class Prepared(NamedTuple):
    """A benchmark that training can read."""

    root: Path  # the folder that also holds splits/
    splits: dict[str, list[str]]  # list file or folder -> ids of its images


# ---- the files of an archive


def missing_files(root: Path, counts: Mapping[str, int]) -> str:
    """'…/JPEGImages/*.jpg: 3 of 17,125' for the first pattern with too few files; empty if there are enough of all."""
    for pattern, count in counts.items():
        found = sum(1 for _ in root.glob(pattern))
        if found < count:
            return f"{root}/{pattern}: {found:,} of {count:,}"
    return ""


def provide_files(options: Namespace, archive: Archive, folder: Path, root: Path, counts: Mapping[str, int]) -> None:
    """Unpacks an archive below `folder` if files of `root` are missing; downloads it first if that is asked for.

    counts: pattern below `root` -> number of files; a `DataError` if the archive is not there, or has not that many.
    """
    if not (missing := missing_files(root, counts)):
        return
    if not (options.archives / archive.name).is_file() and not (options.download and archive.size):
        fetched = f", or add --download ({gibibytes(archive.size)} from {archive.url})"
        how = fetched if archive.size else f"; get it from {archive.page}"
        raise DataError(
            f"files of {archive.name} are missing ({missing}), and so is the archive; put it into {options.archives}{how}"
        )
    unpack(fetch(archive, options.archives), folder)
    if missing := missing_files(root, counts):
        raise DataError(f"after unpacking {archive.name}, files are still missing: {missing}; get it again")


# ---- VOC


def voc(options: Namespace, archive: Archive = VOC, counts: Mapping[str, int] = VOC_COUNTS) -> Prepared:
    """VOCdevkit/VOC2012 as the official archive unpacks; SegmentationClassAug from SBD if that is given."""
    places = [options.root / below for below in ("VOCdevkit/VOC2012", "VOC2012", "")]
    root = next((place for place in places if (place / "JPEGImages").is_dir()), places[0])
    if missing_files(root, counts) and root.absolute().parts[-2:] != ("VOCdevkit", "VOC2012"):
        root = places[0]  # the archive unpacks to VOCdevkit/VOC2012
    provide_files(options, archive, root.absolute().parents[1], root, counts)
    if options.sbd is not None:
        sbd.add_masks(options.sbd, root)
    lists = [root / "ImageSets" / "Segmentation" / name for name in ("train.txt", "val.txt")]
    return Prepared(root=root, splits={str(path): list_ids(path) for path in lists if path.is_file()})


# ---- Cityscapes


def cityscapes(options: Namespace, counts: Mapping[str, int] = CITYSCAPES_COUNTS) -> Prepared:
    """leftImg8bit and gtFine as the official archives unpack; masks are labelIds, or labelTrainIds made elsewhere."""
    root = options.root
    patterns = ("leftImg8bit/{}/*/*_leftImg8bit.png", "gtFine/{}/*/*_labelIds.png", "gtFine/{}/*/*_labelTrainIds.png")
    images, masks, train_ids = ({pattern.format(half): counts[half] for half in counts} for pattern in patterns)
    provide_files(options, CITYSCAPES_IMAGES, root, root, images)
    if missing_files(root, train_ids):
        provide_files(options, CITYSCAPES_MASKS, root, root, masks)
    folders = [root / "leftImg8bit" / half for half in counts]
    ids = {str(path): list(find_images(path, flat=True, tags=("_leftImg8bit",))) for path in folders}
    return Prepared(root=root, splits=ids)


# ---- COCO


def coco(options: Namespace, archives: Mapping[str, Archive] = COCO, counts: Mapping[str, int] = COCO_COUNTS) -> Prepared:
    """train2017, val2017 and masks/ drawn from the annotations by the rule of `coco_masks.py`."""
    below = options.root / "images"
    base = below if (below / "train2017").is_dir() and not (options.root / "train2017").is_dir() else options.root
    for half, count in counts.items():
        provide_files(options, archives[half], base, base, {f"{half}/*.jpg": count})
    images = {half: list(find_images(base / half, flat=True)) for half in counts}
    make_masks(options, archives["annotations"], images)
    return Prepared(root=options.root, splits={str(base / half): ids for half, ids in images.items()})


def make_masks(options: Namespace, archive: Archive, images: Mapping[str, Sequence[str]]) -> None:
    """Masks for all images; a complete folder that somebody else made is accepted, an incomplete one is refused.

    masks/made_from.txt says that the masks are made here, of instance annotations.
    """
    folder, annotations = options.root / "masks", options.root / "annotations"
    marker, have = folder / "made_from.txt", set(find_images(folder, flat=True))
    lost = sum(name not in have for ids in images.values() for name in ids)
    if not lost:
        return
    if have and not (marker.is_file() and marker.read_text().strip() == "instances"):
        raise DataError(
            f"{folder} holds {len(have):,} masks not made here, and {lost:,} images have none; complete it, or move"
            " it away and masks are made from the annotations"
        )
    files = {half: annotations / f"instances_{half}.json" for half in images}
    provide_files(options, archive, options.root, annotations, {path.name: 1 for path in files.values()})
    folder.mkdir(exist_ok=True)
    marker.write_text("instances\n")
    for half, path in files.items():
        tasks = instance_tasks(path, folder / half)
        if missing := set(images[half]) - {task.mask.stem for task in tasks}:
            raise DataError(
                f"{path} says nothing about {len(missing):,} images of {half}, the first: {min(missing)}; give the"
                " annotations of COCO 2017"
            )
        write_masks(tasks, options.processes)


PREPARE = {"voc": voc, "cityscapes": cityscapes, "coco": coco}


# ---- the published lists


def collect_lists(benchmark: str, prepared: Prepared, folder: Path | None) -> list[str]:
    """Writes the published lists, of the benchmark itself or a folder, into splits/; returns the names of all there are."""
    known = {identify_list(ids): ids for ids in prepared.splits.values()}
    found = {name: ids for name, ids in known.items() if name}
    if folder:
        if not (given := find_published_lists(folder, benchmark)):
            raise DataError(f"--lists is {str(folder)!r}, but there is no published list of {benchmark} in it; give another")
        found |= given
    splits = prepared.root / "splits"
    for name, ids in found.items():
        path = splits / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, "".join(f"{each}\n" for each in ids))
    return sorted(find_published_lists(splits, benchmark), key=list(PUBLISHED).index)
