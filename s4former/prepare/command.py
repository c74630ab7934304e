"""Makes a benchmark ready to train on, and verifies it.

    s4former prepare voc --download --lists my/splits
    s4former prepare cityscapes --archives ~/Downloads --lists my/splits
    s4former prepare coco --root data/coco --download

It takes what is there, unpacks or downloads what is missing, makes the masks, counts, and puts the published lists that
it recognises into splits/ of the data folder. It can be interrupted and run again at any time.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import reports_errors

BENCHMARKS = {  # name -> default of --root, and a config
    "voc": ("data", "configs/voc_92.json"),
    "cityscapes": ("data/cityscapes", "configs/cityscapes_186.json"),
    "coco": ("data/coco", "configs/coco_232.json"),
}


@reports_errors("s4former prepare")
def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    from .trees import PREPARE, collect_lists

    try:
        prepared = PREPARE[options.benchmark](options)
        lists = collect_lists(options.benchmark, prepared, options.lists)
    except KeyboardInterrupt:
        print("s4former prepare: interrupted; run the command again and it goes on", file=sys.stderr)
        return 130
    print(summary(options.benchmark, prepared, lists))
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="s4former prepare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("benchmark", choices=list(BENCHMARKS))
    add("--root", type=expanded, help="where the data lie or shall lie (data; data/cityscapes; data/coco)")
    add("--archives", type=expanded, help="the folder of the downloaded archives (the root)")
    add("--download", action="store_true", help="fetch missing archives (VOC 1.9 GiB; COCO 19 GiB)")
    add("--lists", type=expanded, help="a folder with published lists, in any layout, such as a checkout of UniMatch; found by content")
    add("--sbd", type=expanded, help="voc: SBD's archive or folder, or a SegmentationClassAug folder; for blend lists only")
    add("--processes", type=int, default=os.cpu_count() or 1, help="how many make masks (one for each core)")
    options = parser.parse_args(arguments)
    if options.sbd and options.benchmark != "voc":
        parser.error("--sbd is for voc only")
    options.root = options.root or Path(BENCHMARKS[options.benchmark][0])
    options.archives = options.archives or options.root
    return options


def expanded(path: str) -> Path:
    return Path(path).expanduser()


def summary(benchmark: str, prepared: Any, lists: Sequence[str]) -> str:
    """What is there now, and how to train on it."""
    from ..data.published import lists_of_benchmark

    lines = [f"{benchmark} is ready in {prepared.root}"]
    lines += [f"  {len(ids):6,} images  {origin}" for origin, ids in prepared.splits.items()]
    if lists:
        lines.append("published lists, verified: " + ", ".join(lists))
    if absent := [name for name in lists_of_benchmark(benchmark) if name not in lists]:
        lines.append("not here (--lists FOLDER brings them): " + ", ".join(absent))
    lines.append(f"train: accelerate launch train_semi.py --config {BENCHMARKS[benchmark][1]} data.root={prepared.root}")
    return "\n".join(lines)
