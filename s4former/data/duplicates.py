"""Images with the same bytes under different names."""

from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any, Callable, Iterable

from ..files import sha256
from .progress import progress


def find_duplicates(paths: Iterable[str | Path]) -> list[list[str]]:
    """Groups of files with the same bytes, in the order given; only files of one size are read.

    A file that cannot be read has no duplicates; the code that opens it next reports it.
    """
    same_size = groups_by(lambda path: path.stat().st_size, dict.fromkeys(map(str, paths)))
    return groups_by(sha256, progress([path for group in same_size for path in group], "files of one size"))


def groups_by(key: Callable[[Path], Any], paths: Iterable[str]) -> list[list[str]]:
    """The paths that share a key, as far as two or more do."""
    groups: dict[Any, list[str]] = defaultdict(list)
    for path in paths:
        with suppress(OSError):
            groups[key(Path(path))].append(path)
    return [group for group in groups.values() if len(group) > 1]
