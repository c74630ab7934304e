"""Where images and masks are: in a user's folder, and as VOC, Cityscapes and COCO unpack."""

from functools import lru_cache
from pathlib import Path
from typing import Callable, Sequence

from ..config import Data
from ..errors import DataError
from .class_names import CITYSCAPES_CLASSES, COCO_CLASSES, VOC_CLASSES
from .lists import Layout, Sample, SourceParts, check_samples, data_root, find_path, image_files, read_list
from .masks import MASK_ENDINGS, MASK_FOLDERS
from .pairing import pair_up
from .trees import split_masks


def folder(data: Data, parts: Sequence[str]) -> SourceParts:
    """images/ and masks/ with list files, or a subfolder for each part; the pool is every other image."""
    root = data_root(data)
    layout = lru_cache(lambda: folder_layout(root, root / "images" if (root / "images").is_dir() else root, root / "masks"))
    found = samples_by_part(data, parts, root, layout, (root, root / "images"), {"unlabeled": list}, read_folder)
    if "unlabeled" in parts and not data.unlabeled:
        taken = {sample.image for samples in found.values() for sample in samples}
        found["unlabeled"] = [layout().sample(name, False) for name, path in layout().images.items() if path not in taken]
    return SourceParts(parts=found)


def folder_layout(root: Path, images: Path, masks: Path) -> Layout:
    """The layout of two folders with the same names in them, endings and tags aside, or of masks beside their images.

    Of images that lie in the root itself, none in its subfolders are meant.
    """
    found = image_files(images, flat=False)
    if images == root:
        found = {name: path for name, path in found.items() if "/" not in name}
    if masks.is_relative_to(images):
        found = {name: path for name, path in found.items() if not path.startswith(f"{masks}/")}
    found, pairs = split_masks(found)
    pairs |= pair_up(found, image_files(masks, flat=False, suffixes=MASK_ENDINGS))
    return Layout(root, found, pairs, False, images_in=str(images), masks_in=str(masks))


def read_folder(key: str, path: Path, root: Path, masks: bool) -> list[Sample]:
    """Every image of a subfolder; masks lie in masks/ beside its images/, beside the images, or in the same place below masks/."""
    images, masks_folder = path, next((path / name for name in MASK_FOLDERS if (path / name).is_dir()), path / MASK_FOLDERS[0])
    if (path / "images").is_dir():
        images = path / "images"
    elif path.is_relative_to(root / "images"):
        masks_folder = root / "masks" / path.relative_to(root / "images")
    layout = folder_layout(root, images, masks_folder)
    if not layout.images:
        raise DataError(f"{key}: there are no images in {images}")
    return check_samples(key, images, [layout.sample(name, masks) for name in layout.images], layout.masks_in if masks else "")


def voc(data: Data, parts: Sequence[str]) -> SourceParts:
    """The official VOCdevkit tree. Original masks are preferred, SegmentationClassAug fills in where there is none."""
    root = folder_with(data_root(data), "JPEGImages", "", "VOC2012", "VOCdevkit/VOC2012")
    lists = root / "ImageSets" / "Segmentation"
    masks: dict[str, str] = {}
    for kind in ("SegmentationClassAug", "SegmentationClass"):  # the second wins
        masks |= image_files(root / kind, flat=True, suffixes=MASK_ENDINGS)
    layout = Layout(
        root, image_files(root / "JPEGImages", flat=True), masks, True,
        images_in=str(root / "JPEGImages"), masks_in=f"SegmentationClass or SegmentationClassAug of {root}",
    )  # fmt: skip
    pool = [path for path in (lists / "train.txt", lists / "trainaug.txt", lists / "train_aug.txt") if path.is_file()]

    def train() -> list[Sample]:
        samples = [sample for path in pool for sample in read_list("data.unlabeled", path, layout, masks=False)]
        return list({sample.id: sample for sample in samples}.values())

    def val() -> list[Sample]:
        return read_list("data.validation", find_path("data.validation", "val.txt", lists), layout, masks=True)

    found = samples_by_part(data, parts, root, lambda: layout, (root, lists), {"unlabeled": train, "validation": val})
    notes = []
    if "unlabeled" in parts and not data.unlabeled:
        notes.append(f"data.unlabeled is empty: the pool is {' and '.join(path.name for path in pool)} of {lists}")
    return SourceParts(parts=found, classes=VOC_CLASSES, notes=notes)


def cityscapes(data: Data, parts: Sequence[str]) -> SourceParts:
    """leftImg8bit and gtFine as they unpack; labelTrainIds where they were made, labelIds mapped by our table."""
    root, tags = data_root(data), ("_leftImg8bit",)
    halves = [root / "leftImg8bit" / half for half in ("train", "val")]
    for path in halves:
        if not path.is_dir():
            raise DataError(f"data.root is {data.root!r}, but {path} is missing; it must hold leftImg8bit and gtFine")
    train, val = (image_files(path, flat=True, tags=tags) for path in halves)
    masks: dict[str, str] = {}
    for kind in ("_gtFine_labelIds", "_gtFine_labelTrainIds"):  # the second wins
        masks |= image_files(root / "gtFine", flat=True, tags=(kind,), only=kind, suffixes=MASK_ENDINGS)
    layout = Layout(
        root, train | val, masks, True, tags=tags,
        images_in=str(root / "leftImg8bit"), masks_in=f"{root / 'gtFine'} (…_gtFine_labelIds.png)",
    )  # fmt: skip
    found = samples_by_part(data, parts, root, lambda: layout, (root,), halves_of(layout, train, val))
    return SourceParts(parts=found, classes=CITYSCAPES_CLASSES)


def coco(data: Data, parts: Sequence[str]) -> SourceParts:
    """train2017 and val2017, and masks/ with PNGs of the ids 0 (no thing) and 1 to 80 (things in COCO's order)."""
    root = data_root(data)
    halves = [folder_with(root, half, "", "images") / half for half in ("train2017", "val2017")]
    train, val = (image_files(path, flat=True) for path in halves)
    masks = image_files(root / "masks", flat=True, suffixes=MASK_ENDINGS)
    layout = Layout(root, train | val, masks, True, images_in=str(root), masks_in=str(root / "masks"))
    found = samples_by_part(data, parts, root, lambda: layout, (root,), halves_of(layout, train, val))
    return SourceParts(parts=found, classes=COCO_CLASSES)


Defaults = dict[str, Callable[[], list[Sample]]]


def halves_of(layout: Layout, train: dict[str, str], val: dict[str, str]) -> Defaults:
    """By default the whole train half is the pool, and the whole val half is for evaluation."""

    def half(key: str, name: str, ids: dict[str, str], masks: bool) -> list[Sample]:
        samples = [layout.sample(each, masks) for each in ids]
        return check_samples(key, f"the {name} half", samples, layout.masks_in if masks else "")

    return {
        "unlabeled": lambda: half("data.unlabeled", "train", train, False),
        "validation": lambda: half("data.validation", "val", val, True),
    }


def samples_by_part(
    data: Data, parts: Sequence[str], root: Path, layout: Callable[[], Layout], places: Sequence[Path], defaults: Defaults,
    read_folder: Callable | None = None,
) -> dict[str, list[Sample]]:
    """The samples of each part from its list, looked for in `places`, from its folder, or from its default.

    layout: of the root; it is not asked for where every part is a folder, since listing a million images takes seconds.
    """
    found = {}
    for part in parts:
        key, value, masks = f"data.{part}", getattr(data, part), part != "unlabeled"
        if value:
            path = find_path(key, value, *places)
            if not path.is_dir():
                found[part] = read_list(key, path, layout(), masks=masks)
            elif read_folder:
                found[part] = read_folder(key, path, root, masks)
            else:
                raise DataError(f"{key} is {value!r}, which is a folder; the source {data.source} takes list files")
        elif part in defaults:
            found[part] = defaults[part]()
        else:
            what = f"a list file or a subfolder of {root}" if read_folder else "the list file of the labelled images"
            raise DataError(f"{key} is empty; write {key}=... with {what}")
    return found


def folder_with(root: Path, name: str, *below: str) -> Path:
    """The first of the folders `below` the root that holds `name`."""
    for path in below:
        if (root / path / name).is_dir():
            return root / path
    raise DataError(f"there is no folder {name} in {' or '.join(str(root / path) for path in below)}")
