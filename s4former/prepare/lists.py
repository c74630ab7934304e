"""The published lists of a benchmark: from its own splits, a folder or the web, verified, into splits/."""

from collections.abc import Collection
from pathlib import Path

from ..data.published import PUBLISHED, find_published_lists, identify_list, lists_of_benchmark, parse_ids, verify_list
from ..errors import DataError, plural
from ..files import write_text
from .download import read_url
from .trees import Prepared


def collect_lists(benchmark: str, prepared: Prepared, folder: Path | None, url: str) -> list[str]:
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
    if url:
        found |= download_lists(benchmark, url.rstrip("/"), found)
    splits = prepared.root / "splits"
    for name, ids in found.items():
        path = splits / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, "".join(f"{each}\n" for each in ids))
    return sorted(find_published_lists(splits, benchmark)[0], key=list(PUBLISHED).index) if splits.is_dir() else []


def download_lists(benchmark: str, url: str, have: Collection[str]) -> dict[str, list[str]]:
    """The lists below an address that are not there yet, named as ours or as UniMatch's.

    UniMatch has VOC's 10,582 training images as a labelled and an unlabelled list.
    """
    names = lists_of_benchmark(benchmark)
    places = {name: [[path] for path in (f"{name}.txt", PUBLISHED[name].unimatch) if path] for name in names}
    if benchmark == "voc":
        places["voc_train_aug_10582"].append(["pascal/92/labeled.txt", "pascal/92/unlabeled.txt"])
    found = {}
    for name, choices in places.items():
        for paths in choices:
            if name in have or name in found:
                break
            texts = [read_url(f"{url}/{path}") for path in paths]
            if None not in texts:
                found[name] = parse_ids("\n".join(texts).splitlines())
                verify_list(found[name], name, " and ".join(f"{url}/{path}" for path in paths))
    if not found:
        raise DataError(
            f"--lists-url is {url!r}, but no published list of {benchmark} is there; the address is that of a folder"
            " with FAMILY/N.txt, or of the folder splits of UniMatch's repository"
        )
    return found
