"""SegmentationClassAug: the masks of SBD (Hariharan et al., 2011), which give VOC 10,582 training images.

Only the blend lists need them. The official archive (benchmark.tgz, which unpacks to benchmark_RELEASE) holds MATLAB
files, which scipy reads; a ready folder of PNGs, as many projects hand around, is taken as it is.
"""

import io
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..errors import DataError
from .download import DAMAGED
from .mask_files import save_ids

WITH_MASK = 12031  # images of VOC trainval or SBD: 10,582 to train on, 1,449 to evaluate on
WHERE = "http://www.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz"


def add_masks(source: Path, tree: Path, *, with_mask: int = WITH_MASK) -> None:
    """Fills SegmentationClassAug of a VOC2012 folder from an archive, an unpacked benchmark_RELEASE, or ready PNGs.

    Raises:
        DataError: if there is nothing of the kind, or not every image that should have a mask has one afterwards.
    """
    folder = tree / "SegmentationClassAug"
    if source.is_dir() and (ready := ready_masks(source)):
        print(f"copying {len(ready):,} masks from {ready[0].parent}")
        folder.mkdir(exist_ok=True)
        for path in ready:
            if not (folder / path.name).exists():
                shutil.copyfile(path, folder / path.name)
    else:
        for name, content in tqdm(matlab_files(source), desc="masks of SBD", unit=" files"):
            target = folder / f"{name}.png"
            if not target.exists():
                save_ids(target, ids_of_matlab(name, content))
    check(tree, source, with_mask)


def check(tree: Path, source: Path, with_mask: int = WITH_MASK) -> None:
    """`DataError` unless as many images have a mask as VOC trainval and SBD have together."""
    names = {path.stem for kind in ("", "Aug") for path in (tree / f"SegmentationClass{kind}").glob("*.png")}
    if len(names) != with_mask:
        raise DataError(
            f"with the masks of {source}, {len(names):,} images of {tree} have a mask; it must be {with_mask:,}; give"
            " the complete SBD with --sbd (benchmark.tgz, benchmark_RELEASE, or a SegmentationClassAug folder)"
        )


def ready_masks(folder: Path) -> list[Path]:
    """PNGs of a folder that is SegmentationClassAug or holds one."""
    below = folder / "SegmentationClassAug"
    return sorted((below if below.is_dir() else folder).glob("*.png"))


def matlab_files(source: Path) -> Iterator[tuple[str, bytes]]:
    """Id and content of the files cls/*.mat of SBD, from its archive or its folder."""
    count = 0
    if source.is_dir():
        for path in sorted(source.glob("**/cls/*.mat")):
            count += 1
            yield path.stem, path.read_bytes()
    elif source.is_file():
        try:
            with tarfile.open(source) as archive:
                for member in archive:
                    path = Path(member.name)
                    if member.isfile() and path.suffix == ".mat" and path.parent.name == "cls":
                        count += 1
                        yield path.stem, archive.extractfile(member).read()
        except DAMAGED as error:
            raise DataError(f"{source} cannot be unpacked: {error}; download it again from {WHERE}") from None
    if not count:
        raise DataError(
            f"--sbd is {str(source)!r}, but there are neither PNGs nor files cls/*.mat; give benchmark.tgz"
            f" ({WHERE}), an unpacked benchmark_RELEASE, or a SegmentationClassAug folder"
        )


def ids_of_matlab(name: str, content: bytes) -> np.ndarray:
    """(H, W) uint8 class ids of a MATLAB file: GTcls.Segmentation."""
    try:
        from scipy.io import loadmat
    except ImportError:
        raise DataError(
            "SBD comes as MATLAB files, which scipy reads, and scipy is not installed; pip install scipy, or give a"
            " ready SegmentationClassAug folder with --sbd; the classic lists (voc_classic) need no SBD at all"
        ) from None
    try:
        return np.asarray(loadmat(io.BytesIO(content))["GTcls"][0, 0]["Segmentation"], np.uint8)
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise DataError(f"the SBD file {name}.mat cannot be read: {error}; download it again from {WHERE}") from None
