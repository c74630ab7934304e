"""Which tool's annotations of polygons a folder holds, by the content of its files; imports nothing heavy."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

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
    return next((name for path in first_files(folder) if (name := file_format(path))), None)


def first_files(folder: Path) -> Iterator[Path]:
    """The first files of each ending in every folder below one, hidden ones left out."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for ending in dict.fromkeys(ending for ending, _ in MARKS.values()):
            if ending != ".txt" or "labels" in Path(place).parts:
                files = sorted(name for name in names if name.lower().endswith(ending) and not name.startswith("."))
                yield from (Path(place, name) for name in files[:MOST])


def file_format(path: Path) -> str | None:
    """The format of one file of annotations; None if it is none."""
    content = path.read_bytes()
    of_ending = ((name, marks) for name, (ending, marks) in MARKS.items() if path.suffix.lower() == ending)
    return next((name for name, marks in of_ending if all(re.search(mark, content) for mark in marks)), None)
