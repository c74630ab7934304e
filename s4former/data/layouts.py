"""Where images and masks lie: in a folder of one's own, and as VOC, Cityscapes and COCO unpack."""

from pathlib import Path
from typing import Callable, Sequence

from ..config import Data
from ..errors import DataError
from .class_names import CITYSCAPES_CLASSES, COCO_CLASSES, VOC_CLASSES
from .lists import Found, Layout, Sample, check_samples, data_root, find_images, find_path, read_list
from .masks import MASK_ENDINGS

# ---- a folder of one's own


def folder(data: Data, parts: Sequence[str]) -> Found:
    """images/ and masks/ with list files, or a subfolder for each part."""
    root = data_root(data)
    layout = folder_layout(root, root / "images", root / "masks")
    found: dict[str, list[Sample]] = {}
    for part in parts:
        key, value, masks = f"data.{part}", getattr(data, part), part != "unlabeled"
        if value:
            path = find_path(key, value, root, root / "images")
            if path.is_dir():
                found[part] = rows_of_folder(key, path, root, masks)
            else:
                found[part] = read_list(key, path, layout, masks=masks)
        elif masks:
            raise DataError(f"{key} is empty; write {key}=... with a list file or a subfolder of {root}")
    if "unlabeled" in parts and not data.unlabeled:
        taken = {row.image for rows in found.values() for row in rows}
        rest = {name: path for name, path in layout.images.items() if str(path) not in taken}
        found["unlabeled"] = [Sample(str(path), None, name) for name, path in rest.items()]
    return Found(parts=found)


def folder_layout(root: Path, images: Path, masks: Path) -> Layout:
    """The layout of two folders with the same names in them, endings aside."""
    found = find_images(masks, flat=False, suffixes=MASK_ENDINGS)
    return Layout(root, find_images(images, flat=False), found, flat=False, where=str(images), masks_where=str(masks))


def rows_of_folder(key: str, path: Path, root: Path, masks: bool) -> list[Sample]:
    """Every image of a subfolder; masks lie in masks/ beside its images/, or in the same place below masks/."""
    images, where = path, path / "masks"
    if (path / "images").is_dir():
        images = path / "images"
    elif path.is_relative_to(root / "images"):
        where = root / "masks" / path.relative_to(root / "images")
    layout = folder_layout(root, images, where)
    if not layout.images:
        raise DataError(f"{key}: there are no images in {images}")
    # the mask of an image in PATH may lie in PATH/masks, which is then no image
    names = [name for name, file in layout.images.items() if images != path or not file.is_relative_to(path / "masks")]
    rows = [Sample(str(layout.images[n]), str(layout.masks[n]) if masks and n in layout.masks else None, n) for n in names]
    return check_samples(key, images, rows, str(where) if masks else "")


# ---- known trees


def voc(data: Data, parts: Sequence[str]) -> Found:
    """The official VOCdevkit tree. Original masks are preferred, SegmentationClassAug fills in where there is none."""
    root = first_with(data_root(data), "JPEGImages", "", "VOC2012", "VOCdevkit/VOC2012")
    lists = root / "ImageSets" / "Segmentation"
    masks: dict[str, Path] = {}
    for kind in ("SegmentationClassAug", "SegmentationClass"):  # the second wins
        masks |= find_images(root / kind, flat=True, suffixes=MASK_ENDINGS)
    layout = Layout(
        root, find_images(root / "JPEGImages", flat=True), masks, flat=True,
        where=str(root / "JPEGImages"), masks_where=f"SegmentationClass or SegmentationClassAug of {root}",
    )  # fmt: skip
    pool = [path for path in (lists / "train.txt", lists / "trainaug.txt", lists / "train_aug.txt") if path.is_file()]

    def train() -> list[Sample]:
        rows = [row for path in pool for row in read_list("data.unlabeled", path, layout, masks=False)]
        return list({row.id: row for row in rows}.values())

    def val() -> list[Sample]:
        return read_list("data.validation", find_path("data.validation", "val.txt", lists), layout, masks=True)

    found = listed(data, parts, layout, (root, lists), {"unlabeled": train, "validation": val})
    notes = []
    if "unlabeled" in parts and not data.unlabeled:
        notes.append(f"data.unlabeled is empty: the pool is {' and '.join(path.name for path in pool)} of {lists}")
    return Found(parts=found, classes=VOC_CLASSES, notes=notes)


def cityscapes(data: Data, parts: Sequence[str]) -> Found:
    """leftImg8bit and gtFine as they unpack; labelTrainIds where they were made, labelIds mapped by our table."""
    root = data_root(data)
    halves = {half: root / "leftImg8bit" / half for half in ("train", "val")}
    for path in halves.values():
        if not path.is_dir():
            raise DataError(f"data.root is {data.root!r}, but {path} is missing; it must hold leftImg8bit and gtFine")
    images = {half: find_images(path, flat=True, tags=("_leftImg8bit",)) for half, path in halves.items()}
    masks: dict[str, Path] = {}
    for kind in ("_gtFine_labelIds", "_gtFine_labelTrainIds"):  # the second wins
        masks |= find_images(root / "gtFine", flat=True, tags=(kind,), only=kind, suffixes=MASK_ENDINGS)
    layout = Layout(
        root, images["train"] | images["val"], masks, flat=True, tags=("_leftImg8bit",),
        where=str(root / "leftImg8bit"), masks_where=f"{root / 'gtFine'} (…_gtFine_labelIds.png)",
    )  # fmt: skip
    found = listed(data, parts, layout, (root,), halves_as_defaults(images, layout))
    return Found(parts=found, classes=CITYSCAPES_CLASSES)


def coco(data: Data, parts: Sequence[str]) -> Found:
    """train2017 and val2017, and masks/ with PNGs of the ids 0 (no thing) and 1 to 80 (things in COCO's order)."""
    root = data_root(data)
    places = {half: first_with(root, half, "", "images") / half for half in ("train2017", "val2017")}
    images = {half[:-4]: find_images(path, flat=True) for half, path in places.items()}
    masks = find_images(root / "masks", flat=True, suffixes=MASK_ENDINGS)
    layout = Layout(
        root, images["train"] | images["val"], masks, flat=True, where=str(root), masks_where=str(root / "masks")
    )
    found = listed(data, parts, layout, (root,), halves_as_defaults(images, layout))
    return Found(parts=found, classes=COCO_CLASSES)


def halves_as_defaults(images: dict[str, dict[str, Path]], layout: Layout) -> dict[str, Callable[[], list[Sample]]]:
    """The whole train half as the pool, the whole val half for evaluation."""

    def rows(half: str, masks: bool) -> list[Sample]:
        seen = layout.masks if masks else {}
        found = [Sample(str(path), str(seen[name]) if name in seen else None, name) for name, path in images[half].items()]
        key = "data.validation" if masks else "data.unlabeled"
        return check_samples(key, f"the {half} half", found, layout.masks_where if masks else "")

    return {"unlabeled": lambda: rows("train", False), "validation": lambda: rows("val", True)}


def listed(
    data: Data,
    parts: Sequence[str],
    layout: Layout,
    places: Sequence[Path],
    defaults: dict[str, Callable[[], list[Sample]]],
) -> dict[str, list[Sample]]:
    """The rows of each part from its list, looked for in `places`, or from its default."""
    found = {}
    for part in parts:
        key, value = f"data.{part}", getattr(data, part)
        if value:
            path = find_path(key, value, *places)
            if path.is_dir():
                raise DataError(f"{key} is {value!r}, which is a folder; the source {data.source} takes list files")
            found[part] = read_list(key, path, layout, masks=part != "unlabeled")
        elif part in defaults:
            found[part] = defaults[part]()
        else:
            raise DataError(f"{key} is empty; write {key}=... with the list file of the labelled images")
    return found


def first_with(root: Path, name: str, *below: str) -> Path:
    """The first of the folders `below` the root that holds `name`."""
    for folder in below:
        if (root / folder / name).is_dir():
            return root / folder
    raise DataError(f"there is no folder {name} in {' or '.join(str(root / folder) for folder in below)}")
