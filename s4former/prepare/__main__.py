"""python -m s4former.prepare voc|cityscapes|coco: makes a benchmark ready to train on, and verifies it.

    python -m s4former.prepare voc --download --lists my/splits
    python -m s4former.prepare cityscapes --archives ~/Downloads --lists-url https://...
    python -m s4former.prepare coco --root data/coco --masks instances

It takes what is there, unpacks or downloads what is missing, makes the masks, counts, and puts the published lists that
it recognises into splits/ of the data folder. It can be interrupted and run again at any time.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ..data.published import PUBLISHED, find_published_lists, identify_list, lists_of_benchmark, parse_ids, verify_list
from ..errors import DataError, plural
from .download import text_at
from .trees import Ready, Wish, cityscapes, coco, voc

BENCHMARKS = {"voc": voc, "cityscapes": cityscapes, "coco": coco}
ROOTS = {"voc": "data", "cityscapes": "data/cityscapes", "coco": "data/coco"}  # as the configs have them
CONFIGS = {
    "voc": ("configs/voc_92.json", "data/VOCdevkit"),
    "cityscapes": ("configs/cityscapes_186.json", "data/cityscapes"),
    "coco": ("configs/coco_232.json", "data/coco"),
}


# ---- the lists


def collect_lists(benchmark: str, ready: Ready, folder: Path | None, url: str) -> list[str]:
    """Writes the published lists that can be had into splits/, each verified; returns the names of all there are."""
    splits = ready.tree / "splits"
    found = {}
    for names in ready.halves.values():
        ids = parse_ids(names)
        if name := identify_list(ids):  # what the benchmark itself states: all of train, all of val
            found[name] = ids
    if folder:
        given, others = find_published_lists(folder, benchmark)
        found |= given
        if others:
            print(f"passed over in {folder}: {plural(len(others), 'text file')}, no published list of {benchmark}")
        if not given:
            raise DataError(f"--lists is {str(folder)!r}, but no published list of {benchmark} is in it; give another")
    if url:
        found |= downloaded(benchmark, url, set(found))
    for name, ids in found.items():
        write_list(splits / f"{name}.txt", ids)
    return sorted(find_published_lists(splits, benchmark)[0], key=list(PUBLISHED).index) if splits.is_dir() else []


def downloaded(benchmark: str, url: str, have: set[str]) -> dict[str, list[str]]:
    """The lists below an address, named as ours or as UniMatch's; the pool of VOC is put together from two of them."""
    found, url = {}, url.rstrip("/")
    for name in lists_of_benchmark(benchmark):
        for path in filter(None, (f"{name}.txt", PUBLISHED[name].unimatch)):
            if name in have or name in found or (text := text_at(f"{url}/{path}")) is None:
                continue
            found[name] = parse_ids(text.splitlines())
            verify_list(found[name], name, f"{url}/{path}")
    if not found:
        raise DataError(
            f"--lists-url is {url!r}, but no published list of {benchmark} is there; the address is that of a folder"
            " with FAMILY/N.txt, or of the folder splits of UniMatch's repository"
        )
    pool = "voc_train_aug_10582"
    if benchmark == "voc" and pool not in {*found, *have}:
        parts = [text_at(f"{url}/pascal/92/{part}.txt") for part in ("labeled", "unlabeled")]
        if None not in parts:
            found[pool] = parse_ids("\n".join(parts).splitlines())
            verify_list(found[pool], pool, f"{url}/pascal/92 (labelled and unlabelled together)")
    return found


def write_list(path: Path, ids: Sequence[str]) -> None:
    """One plain id a line; beside and renamed. A list that is there is written again, as it has the same ids."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text("".join(f"{name}\n" for name in ids))
    part.replace(path)


# ---- the command


def report(benchmark: str, ready: Ready, lists: Sequence[str]) -> str:
    """What there is now, and how to go on."""
    lines = [f"{benchmark} is ready in {ready.tree}"]
    lines += [f"  {len(names):6,} images  {origin}" for origin, names in ready.halves.items()]
    if lists:
        lines.append("published lists, verified: " + ", ".join(lists))
    if absent := [name for name in lists_of_benchmark(benchmark) if name not in lists]:
        lines.append("not here (--lists FOLDER or --lists-url URL brings them): " + ", ".join(absent))
    if any(name.startswith("voc_blend") for name in lists) and not (ready.tree / "SegmentationClassAug").is_dir():
        lines.append("the voc_blend lists need the masks of SBD too: --sbd brings them; voc_classic does not")
    config, usual = CONFIGS[benchmark]
    tree = ready.tree.absolute()
    other = "" if tree in (Path(usual).absolute(), Path(usual).absolute() / "VOC2012") else f" data.root={ready.tree}"
    lines.append(f"train: accelerate launch train_semi.py --config {config}{other}")
    return "\n".join(lines)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m s4former.prepare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("benchmark", choices=list(BENCHMARKS))
    add("--root", type=Path, help="where the data lie or shall lie (data; data/cityscapes; data/coco)")
    add("--archives", type=Path, help="the folder of the downloaded archives (the root)")
    add("--download", action="store_true", help="fetch missing archives (VOC 1.9 GiB; COCO 19 GiB)")
    add("--lists", type=Path, help="a folder with published lists, in any layout; found by content")
    add("--lists-url", default="", help="an address with published lists, ours or UniMatch's layout")
    add("--sbd", type=Path, help="voc: SBD's archive or folder, or a SegmentationClassAug folder; for blend lists only")
    add("--masks", choices=("instances", "panoptic"), default="instances", help="coco: annotations to draw from")
    add("--processes", type=int, default=os.cpu_count() or 1, help="how many make masks (one for each core)")
    options = parser.parse_args(arguments)
    if options.sbd and options.benchmark != "voc":
        parser.error("--sbd is for voc only")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    options = parsed(arguments)
    root = (options.root or Path(ROOTS[options.benchmark])).expanduser()
    archives = (options.archives or root).expanduser()
    sbd = options.sbd.expanduser() if options.sbd else None
    wish = Wish(
        root=root, archives=archives, download=options.download, processes=options.processes, sbd=sbd,
        masks=options.masks,
    )  # fmt: skip
    try:
        ready = BENCHMARKS[options.benchmark](wish)
        lists = collect_lists(options.benchmark, ready, options.lists, options.lists_url)
    except (DataError, OSError) as error:  # a disk that is full, a folder that cannot be written
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; run the command again and it goes on")
    print(report(options.benchmark, ready, lists))


if __name__ == "__main__":
    main()
