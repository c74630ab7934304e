"""SegmentationClassAug: the masks of SBD (Hariharan et al., 2011), which give VOC 10,582 training images.

Only the blend lists need them. The official archive holds MATLAB files, which scipy reads; a ready folder of PNGs, as many
projects hand around, is taken as it is.
"""

import shutil
from pathlib import Path

import numpy as np

from ..data.progress import progress
from ..errors import DataError
from ..files import writing_file
from .coco_masks import save_ids
from .download import unpack

IMAGES_WITH_MASK = 12031  # of VOC trainval or SBD: 10,582 to train on, 1,449 to evaluate on
URL = "http://www.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz"
KINDS = f"benchmark.tgz ({URL}), an unpacked benchmark_RELEASE, or a SegmentationClassAug folder"


def add_masks(source: Path, root: Path, *, images: int = IMAGES_WITH_MASK) -> None:
    """Fills SegmentationClassAug of a VOC2012 folder from one of the `KINDS`; an archive is unpacked beside itself.

    Raises:
        DataError: the source is nothing of the kind, or fewer or more than `images` images have a mask afterwards.
    """
    if source.is_file():
        unpack(source, source.with_suffix(""))
        source = source.with_suffix("")
    below = source / "SegmentationClassAug"
    files = sorted((below if below.is_dir() else source).glob("*.png")) or sorted(source.glob("**/cls/*.mat"))
    if not files:
        raise DataError(f"--sbd is {str(source)!r}, but there are neither PNGs nor files cls/*.mat; give {KINDS}")
    folder = root / "SegmentationClassAug"
    folder.mkdir(exist_ok=True)
    for path in progress(files, "masks of SBD"):
        target = folder / f"{path.stem}.png"
        if target.exists():
            continue
        if path.suffix == ".png":
            with writing_file(target) as beside:
                shutil.copyfile(path, beside)
        else:
            save_ids(target, read_matlab(path))
    names = {path.stem for kind in ("", "Aug") for path in (root / f"SegmentationClass{kind}").glob("*.png")}
    if len(names) != images:
        raise DataError(
            f"with the masks of {source}, {len(names):,} images of {root} have a mask; it must be {images:,}; give the complete"
            f" SBD with --sbd: {KINDS}"
        )


def read_matlab(path: Path) -> np.ndarray:
    """(H, W) uint8 class ids of a MATLAB file: GTcls.Segmentation."""
    try:
        from scipy.io import loadmat
    except ImportError:
        raise DataError(
            "SBD comes as MATLAB files, which scipy reads, and scipy is not installed; pip install scipy, or give a"
            " ready SegmentationClassAug folder with --sbd; the classic lists (voc_classic) need no SBD at all"
        ) from None
    try:
        return np.asarray(loadmat(path)["GTcls"][0, 0]["Segmentation"], np.uint8)
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise DataError(f"the SBD file {path} cannot be read: {error}; download it again from {URL}") from None
