"""Which files are the photos that a user names: files, folders and globs; imports no torch, so that a typo is told at once."""

import glob
import os
import sys
from collections import Counter
from collections.abc import Iterable, Sequence, Set
from itertools import chain, count
from pathlib import Path

from ..data.images import IMAGE_ENDINGS, EncodedImage, open_header
from ..data.lists import find_images
from ..data.masks import PREDICTED
from ..data.trees import split_masks
from ..errors import DataError, plural

RESULTS = ("masks", "overlays", "label_ids", "sheet.png")  # what predictions are written as


def find_photos(patterns: Sequence[str], output: str = "") -> dict[str, EncodedImage]:
    """The image files of file names, folders (with all below them) and globs by id, in order of their paths.

    Of a folder, masks are left out, with a line on the console, and what was written into `output` before.
    An id is the path below the folder that all have in common, without suffix unless another file has that id. A DataError
    if one of the patterns has no image.
    """
    written = {Path(output).expanduser().absolute() / name for name in RESULTS} if output else set()
    found = {file.absolute(): file for pattern in patterns for file in matching_files(pattern, written)}
    given = [Path(pattern).expanduser().absolute() for pattern in patterns]
    root = Path(os.path.commonpath(given if all(path.is_dir() for path in given) else [file.parent for file in found]))
    files = {file.relative_to(root): found[file] for file in sorted(found)}
    times = Counter(chain(files, (file.with_suffix("") for file in files)))
    ids = (file.with_suffix("") if times[file.with_suffix("")] == 1 else file for file in files)
    return {id.as_posix(): {"path": str(file), "bytes": None} for id, file in zip(ids, files.values())}


def check_output(folder: Path, pool: bool = False) -> None:
    """A `DataError` if predictions in FOLDER/masks would take the place of masks that were not predicted, or were changed since.

    pool: nor may masks or confidence lie there that are not those of a pool, which removes older ones.
    """
    files = [path for name in ("masks", "confidence")[: 1 + pool] for path in sorted((folder / name).glob("*.png"))]
    foreign = next((path for path in files if not is_prediction(path)), None)
    if foreign is None and pool and files and not (folder / "ids.json").is_file():
        foreign = files[0]
    if foreign:
        raise DataError(
            f"{foreign.parent} holds {foreign.name}, which this command did not write, or somebody has changed since; give another"
            " folder, since files in it may be overwritten"
        )


def is_prediction(path: Path) -> bool:
    with open_header({"path": str(path), "bytes": None}, "mask") as mask:
        return PREDICTED.items() <= mask.info.items()


def matching_files(pattern: str, written: Set[Path]) -> list[Path]:
    """The photos of one file name, folder or glob; of a folder, but for those files and folders that were written."""
    path = Path(pattern).expanduser()
    if path.is_dir():
        files = find_images(path, flat=False)
        files = {name: file for name, file in files.items() if written.isdisjoint((file.absolute(), *file.absolute().parents))}
        found = [*split_masks(files)[0].values()]
        if masks := sorted({*files.values()} - {*found}):
            which = f"{plural(len(masks), 'file')} of {pattern} {'is' if len(masks) == 1 else 'are'}"
            print(f"{which} taken for masks and left out, the first: {masks[0]}; a glob in quotes names each file", file=sys.stderr)
    else:
        names = [str(path)] if path.is_file() else glob.glob(str(path), recursive=True)
        found = [file for file in map(Path, names) if file.is_file()]
    if not found:
        what = "the folder has no image below it" if path.is_dir() else "there is no such file or folder, and it matches none"
        raise DataError(
            f"--images {pattern!r}: {what}; give a file, a folder with {', '.join(sorted(IMAGE_ENDINGS))} files, or a glob in quotes"
        )
    return found


def unique_names(ids: Iterable[str]) -> dict[str, str]:
    """Names of result files, without suffix, by id: "/" becomes "__"; a name that an earlier id has, as a__b after a/b, gets a number."""
    taken: dict[str, str] = {}
    for id in ids:
        name = id.replace("/", "__")
        taken[next(each for each in chain([name], (f"{name}-{number}" for number in count(2))) if each not in taken)] = id
    return {id: name for name, id in taken.items()}
