"""The published lists of labelled images, known by content: how many ids, and the SHA-256 of them sorted.

The lists themselves are not ours to ship. A list is recognised whatever its file is called and however its lines are
written: `2007_000032`, `JPEGImages/2007_000032.jpg SegmentationClass/2007_000032.png` and `/JPEGImages/2007_000032.jpg` are
the same id. Families that cannot be compared have different names: `voc_blend_cps` draws from all 10,582 images of VOC and
SBD, `voc_blend_u2pl` takes the finely labelled ones first.
"""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ..errors import DataError, plural
from ..files import read_text
from .lists import list_fingerprint, list_lines, strip_endings


class Published(NamedTuple):
    """What identifies a list."""

    images: int
    sha256: str


# The names are those of the files below ROOT/splits, as the configs have them. In each family, the number is that of
# the labelled images; COCO's lists go by their share of train2017.
PUBLISHED = {
    row["name"]: Published(int(row["images"]), row["sha256"])
    for row in csv.DictReader(read_text(Path(__file__).with_name("published_lists.csv")).splitlines())
}


def image_id(name: str) -> str:
    """The id that a line of any project's list, or an id of ours, means: a file name without folder, ending, tag."""
    return strip_endings(name.split()[0].rsplit("/", 1)[-1], ("_leftImg8bit",))


def parse_ids(lines: Iterable[str]) -> list[str]:
    """The ids of a list's lines, in its order."""
    return [image_id(line) for line in list_lines(lines)]


def identify_list(ids: Iterable[str]) -> str | None:
    """The name of the published list that has exactly these ids, in any order; None if there is none."""
    names = [name for name in ids if name.strip()]
    if all(known.images != len(names) for known in PUBLISHED.values()):
        return None  # at once: a million ids take seconds
    fingerprint = list_fingerprint(map(image_id, names))
    same = (name for name, known in PUBLISHED.items() if known == (fingerprint["images"], fingerprint["sha256"]))
    return next(same, None)


def verify_list(ids: list[str], name: str, origin: Path | str) -> None:
    """`DataError` that says what the ids of `origin` are if they are not the list `name`."""
    found = identify_list(ids)
    if found == name:
        return
    if found:
        raise DataError(f"{origin}: this is {found}, not {name}; name it {found}.txt, or get the right list")
    known, fingerprint = PUBLISHED[name], list_fingerprint(ids)
    raise DataError(
        f"{origin}: this is not {name}: it has {plural(fingerprint['images'], 'id')} with SHA-256"
        f" {fingerprint['sha256'][:12]}…, the published list has {known.images} with {known.sha256[:12]}…; get the list"
        " again, or use your own list under another name"
    )


def list_named_by(path: Path) -> str | None:
    """The list that a file's name says it is: FAMILY/N.txt or NAME.txt."""
    return next((name for name in (f"{path.parent.name}/{path.stem}", path.stem) if name in PUBLISHED), None)


def lists_of_benchmark(benchmark: str) -> list[str]:
    """The names of the lists of voc, cityscapes or coco."""
    return [name for name in PUBLISHED if name.partition("/")[0].partition("_")[0] == benchmark]


def find_published_lists(folder: Path, benchmark: str) -> tuple[dict[str, list[str]], list[Path]]:
    """The published lists of a benchmark among the .txt files below a folder, and the files that are none.

    Raises:
        DataError: for a file that has the name of a published list but not its ids.
    """
    if not folder.is_dir():
        raise DataError(f"--lists is {str(folder)!r}, but there is no such folder; give the one that holds the lists")
    wanted = lists_of_benchmark(benchmark)
    found: dict[str, list[str]] = {}
    others = []
    for path in sorted(folder.rglob("*.txt")):
        expected = list_named_by(path)
        if expected and expected not in wanted:
            continue
        ids = parse_ids(read_text(path).splitlines())
        if expected:
            verify_list(ids, expected, path)
        name = expected or identify_list(ids)
        labeled = path.with_name("labeled.txt")
        if name is None and path.name == "unlabeled.txt" and labeled.is_file():  # the whole pool is the two together
            ids = sorted({*ids, *parse_ids(read_text(labeled).splitlines())})
            name = identify_list(ids)
        if name in wanted:
            found[name] = ids
        else:
            others.append(path)
    return found, others
