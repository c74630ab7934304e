"""Where images and masks are: in a user's folder, and as VOC, Cityscapes and COCO unpack."""

from functools import cache, partial
from pathlib import Path
from typing import Callable, Mapping, Sequence

from ..config import Data
from ..errors import DataError
from .lists import Layout, Sample, check_samples, data_root, find_path, image_files, read_list
from .masks import MASK_ENDINGS, MASK_FOLDERS
from .pairing import pair_up
from .trees import split_masks

Parts = dict[str, list[Sample]]


def folder(data: Data, parts: Sequence[str], notes: list[str]) -> Parts:
    """images/ and masks/ with list files, or a subfolder for each part; the pool is every other image."""
    root = data_root(data)
    layout = cache(partial(folder_layout, root))
    named = [part for part in parts if part != "unlabeled" or data.unlabeled]
    found = samples_by_part(data, named, (root, root / "images"), layout, {})
    if len(named) < len(parts):
        taken = {sample.image for samples in found.values() for sample in samples}
        whole = layout(root)
        found["unlabeled"] = [whole.sample(name, False) for name, path in whole.images.items() if path not in taken]
    return found


def folder_layout(root: Path, path: Path) -> Layout:
    """What the root, or a subfolder of it, holds: names are the same but for endings and tags, or masks lie beside their images.

    Masks lie in masks/ (labels/, annotations/) beside images/, or beside the images, or in the same place below the root's masks/.
    Of images that lie in the root itself, none in its subfolders are meant.
    """
    images = path / "images" if (path / "images").is_dir() else path
    masks = next((path / name for name in MASK_FOLDERS if (path / name).is_dir()), path / MASK_FOLDERS[0])
    if images == path and path.is_relative_to(root / "images"):
        masks = root / "masks" / path.relative_to(root / "images")
    found = image_files(images, flat=False)
    if images == root:
        found = {name: file for name, file in found.items() if "/" not in name}
    if masks.is_relative_to(images):
        found = {name: file for name, file in found.items() if not file.startswith(f"{masks}/")}
    found, pairs = split_masks(found)
    pairs |= pair_up(found, image_files(masks, flat=False, suffixes=MASK_ENDINGS))
    return Layout(root, found, pairs, False, masks_in=str(masks))


def voc(data: Data, parts: Sequence[str], notes: list[str]) -> Parts:
    """The official VOCdevkit tree. Original masks are preferred, SegmentationClassAug fills in where there is none."""
    images = folder_with(data_root(data), "JPEGImages", "", "VOC2012", "VOCdevkit/VOC2012")
    root, lists = images.parent, images.parent / "ImageSets" / "Segmentation"
    masks: dict[str, str] = {}
    for kind in ("SegmentationClassAug", "SegmentationClass"):  # the second wins
        masks |= image_files(root / kind, flat=True, suffixes=MASK_ENDINGS)
    masks_in = f"SegmentationClass or SegmentationClassAug (of SBD: s4former prepare voc --sbd) of {root}"
    layout = Layout(root, image_files(images, flat=True), masks, True, masks_in)
    pool = next((name for name in ("trainaug.txt", "train_aug.txt") if (lists / name).is_file()), "train.txt")
    defaults = {"unlabeled": str(lists / pool), "validation": str(lists / "val.txt")}
    if "unlabeled" in parts and not data.unlabeled:
        notes.append(f"data.unlabeled is empty: the pool is {pool} of {lists}")
    return samples_by_part(data, parts, (root, lists), layout.below, defaults)


def cityscapes(data: Data, parts: Sequence[str], notes: list[str]) -> Parts:
    """leftImg8bit and gtFine as they unpack; labelTrainIds where they were made, labelIds mapped by our table."""
    root = data_root(data)
    halves = [folder_with(root, f"leftImg8bit/{half}", "") for half in ("train", "val")]
    tags = ("_gtFine_labelIds", "_gtFine_labelTrainIds")
    masks = image_files(root / "gtFine", flat=True, tags=tags, suffixes=MASK_ENDINGS)
    masks_in = f"{root / 'gtFine'} (…_gtFine_labelIds.png)"
    return two_halves(data, parts, halves, masks, masks_in, ("_leftImg8bit",))


def coco(data: Data, parts: Sequence[str], notes: list[str]) -> Parts:
    """train2017 and val2017, and masks/ with PNGs of the ids 0 (no thing) and 1 to 80 (things in COCO's order)."""
    root = data_root(data)
    halves = [folder_with(root, half, "", "images") for half in ("train2017", "val2017")]
    masks = image_files(root / "masks", flat=True, suffixes=MASK_ENDINGS)
    return two_halves(data, parts, halves, masks, str(root / "masks"))


def two_halves(
    data: Data, parts: Sequence[str], halves: Sequence[Path], masks: dict[str, str], masks_in: str, tags: tuple[str, ...] = ()
) -> Parts:
    """Trees whose images lie in a folder to train on, by default the pool, and one to evaluate on, by default all of it."""
    images = {name: file for half in halves for name, file in image_files(half, flat=True, tags=tags).items()}
    layout = Layout(data_root(data), images, masks, True, masks_in, tags)
    defaults = {"unlabeled": str(halves[0]), "validation": str(halves[1])}
    return samples_by_part(data, parts, (layout.root,), layout.below, defaults)


def samples_by_part(
    data: Data, parts: Sequence[str], places: Sequence[Path], layout: Callable[[Path], Layout], defaults: Mapping[str, str]
) -> Parts:
    """The samples of each part, from the list or the folder that its key names, or that it has by default.

    places: where lists and folders are looked for, the root first.
    layout: of the root, or of a folder; it is asked for as late as can be, since listing a million images takes seconds.
    """
    found: Parts = {}
    for part in parts:
        key, masks = f"data.{part}", part != "unlabeled"
        if not (value := getattr(data, part) or defaults.get(part)):
            raise DataError(f"{key} is empty; write {key}=... with a list file or a subfolder of {places[0]}")
        path = find_path(key, value, *places)
        if path.is_dir():
            there = layout(path)
            if not there.images:
                raise DataError(f"{key}: there are no images in {path}")
            samples = [there.sample(name, masks) for name in there.images]
            found[part] = check_samples(key, path, samples, there.masks_in if masks else "")
        else:
            found[part] = read_list(key, path, layout(places[0]), masks=masks)
    return found


def folder_with(root: Path, name: str, *below: str) -> Path:
    """The folder of that name in the first of the folders `below` the root that has it."""
    for path in below:
        if (root / path / name).is_dir():
            return root / path / name
    raise DataError(f"there is no folder {name} in {' or '.join(str(root / path) for path in below)}")
