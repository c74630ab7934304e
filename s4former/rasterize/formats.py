"""Which tool's annotations of polygons a folder holds, by the content of its files."""

import re
from collections.abc import Iterator
from pathlib import Path

from ..data.lists import walk_folders

# format -> ending of its files, and what the content of one has to match
MARKS = {
    "COCO": (".json", (rb'"annotations"\s*:', rb'"categories"\s*:', rb'"segmentation"\s*:')),
    "LabelMe": (".json", (rb'"shapes"\s*:', rb'"imagePath"\s*:')),
    "Supervisely": (".json", (rb'"objects"\s*:', rb'"(exterior|bitmap)"\s*:')),
    "CVAT": (".xml", (rb"<annotations>", rb"<image\s[^>]*\bwidth=")),
    "YOLO": (".txt", (rb"(?m)^[ \t]*\d+(([ \t]+[\d.eE+-]+){2}){3,}[ \t]*\r?$",)),  # a class and three corners or more
}
MOST = 20  # files of one ending that are looked at in one folder


def polygon_format(folder: Path) -> str | None:
    """The format of the annotations below a folder, a key of `MARKS`; None if there are none that could be drawn."""
    first = (path for files in annotation_files(folder) for path in files[:MOST])
    return next((name for path in first if (name := file_format(path))), None)


def annotation_files(folder: Path) -> Iterator[list[Path]]:
    """The files of each ending in every folder below one, but hidden ones, and texts only where they are in a folder labels/."""
    for place, names in sorted(walk_folders(folder, hidden=False)):
        for ending in dict.fromkeys(ending for ending, _ in MARKS.values()):
            if ending != ".txt" or "labels" in place.split("/"):
                yield [folder / place / name for name in sorted(names) if name.lower().endswith(ending)]


def file_format(path: Path) -> str | None:
    """The format of one file of annotations; None if it is none."""
    content = path.read_bytes()
    of_ending = ((name, marks) for name, (ending, marks) in MARKS.items() if path.suffix.lower() == ending)
    return next((name for name, marks in of_ending if all(re.search(mark, content) for mark in marks)), None)
