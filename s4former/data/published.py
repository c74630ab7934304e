"""The published lists of labelled images, known by content: how many ids, and the SHA-256 of them sorted.

The lists themselves are not ours to ship. Whatever a file is called, `2007_000032`, `/JPEGImages/2007_000032.jpg` and
`JPEGImages/2007_000032.jpg SegmentationClass/2007_000032.png` are the same id. Families that cannot be compared have names of
their own: `voc_blend_cps` draws from all 10,582 images of VOC and SBD, `voc_blend_u2pl` takes the finely labelled ones first.
"""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import DataError, plural
from ..files import read_text
from .lists import list_fingerprint, list_lines, strip_endings

# Name -> `list_fingerprint`. The names are those of the files below ROOT/splits, as the configs have them. In each family, the
# number is that of the labelled images; COCO's lists go by their share of train2017.
PUBLISHED: dict[str, dict[str, Any]] = {
    row["name"]: {"images": int(row["images"]), "sha256": row["sha256"]}
    for row in csv.DictReader(read_text(Path(__file__).with_name("published_lists.csv")).splitlines())
}


def image_id(name: str) -> str:
    """The id that a line of any project's list, or an id of ours, means: a file name without folder, ending, tag."""
    return strip_endings(name.split()[0].rsplit("/", 1)[-1], ("_leftImg8bit",))


def list_ids(path: Path) -> list[str]:
    """The ids of a list file, in its order."""
    return [image_id(line) for line in list_lines(path)]


def identify_list(ids: Iterable[str]) -> str | None:
    """The name of the published list that has exactly these ids, in any order; None if there is none."""
    names = [name for name in ids if name.strip()]
    if all(known["images"] != len(names) for known in PUBLISHED.values()):
        return None  # at once: a million ids take seconds
    fingerprint = list_fingerprint(map(image_id, names))
    return next((name for name, known in PUBLISHED.items() if known == fingerprint), None)


def verify_list(ids: list[str], name: str, origin: Path | str) -> None:
    """`DataError` if the ids of `origin` are not those of the list `name`, which its own name says."""
    if (found := identify_list(ids)) != name:
        what = found or f"{plural(len(ids), 'id')} with another SHA-256"
        raise DataError(
            f"{origin}: this is not {name}, of {PUBLISHED[name]['images']} ids, but {what}; get the right list, or give yours"
            " another name"
        )


def list_named_by(path: Path) -> str | None:
    """The list that a file's name says it is: FAMILY/N.txt or NAME.txt."""
    return next((name for name in (f"{path.parent.name}/{path.stem}", path.stem) if name in PUBLISHED), None)


def lists_of_benchmark(benchmark: str) -> list[str]:
    """The names of the lists of voc, cityscapes or coco."""
    return [name for name in PUBLISHED if name.partition("/")[0].partition("_")[0] == benchmark]


def find_published_lists(folder: Path, benchmark: str) -> dict[str, list[str]]:
    """Name -> ids of a benchmark's published lists below a folder; `DataError` for a file with the name of one and other ids."""
    found: dict[str, list[str]] = {}
    for path in sorted(folder.rglob("*.txt")):
        expected = list_named_by(path)
        if expected and expected not in lists_of_benchmark(benchmark):
            continue
        ids = list_ids(path)
        if expected:
            verify_list(ids, expected, path)
        labeled = path.with_name("labeled.txt")
        if path.name == "unlabeled.txt" and labeled.is_file() and not identify_list(ids):  # the pool is the two together
            ids = sorted({*ids, *list_ids(labeled)})
        if (name := identify_list(ids)) in lists_of_benchmark(benchmark):
            found[name] = ids
    return found
