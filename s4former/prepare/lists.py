"""The published lists of a benchmark: from its own splits or a folder, verified, into splits/."""

from pathlib import Path

from ..data.published import PUBLISHED, find_published_lists, identify_list, parse_ids
from ..errors import DataError, plural
from ..files import write_text
from .trees import Prepared


def collect_lists(benchmark: str, prepared: Prepared, folder: Path | None) -> list[str]:
    """Writes the published lists that can be had into splits/, each verified; returns the names of all there are."""
    found = {}
    for lines in prepared.splits.values():
        ids = parse_ids(lines)
        if name := identify_list(ids):  # what the benchmark itself states: all of train, all of val
            found[name] = ids
    if folder:
        given, others = find_published_lists(folder, benchmark)
        if others:
            print(f"passed over in {folder}: {plural(len(others), 'text file')}, no published list of {benchmark}")
        if not given:
            raise DataError(f"--lists is {str(folder)!r}, but no published list of {benchmark} is in it; give another")
        found |= given
    splits = prepared.root / "splits"
    for name, ids in found.items():
        path = splits / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, "".join(f"{each}\n" for each in ids))
    return sorted(find_published_lists(splits, benchmark)[0], key=list(PUBLISHED).index) if splits.is_dir() else []
