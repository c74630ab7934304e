"""Pictures that are there twice: the same bytes under different names."""

import hashlib
from collections import defaultdict
from pathlib import Path
from typing import Iterable


def find_duplicates(paths: Iterable[str | Path]) -> list[list[str]]:
    """Groups of files with the same bytes, in the order given; only files of one size are read.

    A file that cannot be read is like no other: whoever opens it next names it.
    """
    by_size = grouped({str(path): size_of(Path(path)) for path in paths})
    suspects = {path: digest(Path(path)) for group in by_size for path in group}
    return grouped(suspects)


def grouped(keys: dict[str, object]) -> list[list[str]]:
    """The names that share a key, as far as two or more do; None is no key."""
    groups: dict[object, list[str]] = defaultdict(list)
    for name, key in keys.items():
        if key is not None:
            groups[key].append(name)
    return [names for names in groups.values() if len(names) > 1]


def size_of(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def digest(path: Path) -> str | None:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
