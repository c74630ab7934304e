"""Times the parts of a training against straight versions of themselves, after checking that both compute the same.

    python -m s4former.benchmark [step|attention|losses|ema|loader|evaluate|budget|memory|all] [--config FILE] [section.key=value ...]

Nothing is downloaded and nothing is needed: networks have random weights, and where the data of the config is not at
hand, pictures are drawn.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any, Callable, Iterator

import torch

from ..config import from_dict, load, set_override, to_dict
from ..errors import ConfigError, DataError
from . import data_parts, training_parts
from .bench import Bench
from .material import at_hand
from .timing import Disagreement, Measured, Row, Stopwatch

PARTS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "step": training_parts.step,
    "attention": training_parts.attention,
    "losses": training_parts.losses,
    "ema": training_parts.ema,
    "loader": data_parts.loader,
    "evaluate": data_parts.evaluate,
    "budget": data_parts.budget,
    "memory": training_parts.memory,
}


def main(arguments: list[str] | None = None) -> int:
    options = read_options(arguments)
    try:
        parts, overrides = split_words(options.words)
        if options.json and not Path(options.json).absolute().parent.is_dir():
            raise ConfigError(f"--json {options.json}: there is no such folder to write it into; make it first")
        config = load(options.config, overrides) if options.config else from_dict(tree_of(overrides))
        with tempfile.TemporaryDirectory() as folder:
            config, sources, said = at_hand(config, Path(folder))
            watch = Stopwatch(torch.device(options.device), options.repeats)
            bench = Bench(config=config, sources=sources, watch=watch)
            print(f"{machine(watch.device)}; {said}", flush=True)
            rows = run(bench, parts)
    except (ConfigError, DataError, Disagreement) as error:
        print(f"\ns4former.benchmark: {error}", file=sys.stderr)
        return 1
    if options.json:
        report = {"machine": machine(watch.device), "config": to_dict(config), "rows": rows, "facts": bench.facts}
        Path(options.json).write_text(json.dumps(report, indent=2) + "\n")
    return 0


def run(bench: Bench, parts: list[str]) -> list[dict[str, Any]]:
    """Runs the parts in order, prints each row when it is there, and returns them for the JSON."""
    print(heading(), flush=True)
    rows = []
    for part in parts:
        for row in PARTS[part](bench):
            print(line(row), flush=True)
            rows.append({"part": part, **as_json(row)})
    for sentence in bench.said:
        print(sentence)
    return rows


# ---- command line


def read_options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m s4former.benchmark", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="*", metavar="PART or section.key=value", help=f"{', '.join(PARTS)}; default: all")
    parser.add_argument("--config", metavar="FILE", help="default: the paper's setting for VOC")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu, cuda, cuda:1")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="timed runs of each way (default 5)")
    parser.add_argument("--json", metavar="FILE", help="write all numbers")
    return parser.parse_intermixed_args(arguments)


def split_words(words: list[str]) -> tuple[list[str], list[str]]:
    """The parts, in the order of PARTS, and the overrides."""
    overrides = [word for word in words if "=" in word]
    named = [word for word in words if "=" not in word]
    for word in named:
        if word not in (*PARTS, "all"):
            raise ConfigError(f"there is no part {word!r}; one of {', '.join(PARTS)} or all")
    return [part for part in PARTS if not named or "all" in named or part in named], overrides


def tree_of(overrides: list[str]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for override in overrides:
        set_override(tree, override)
    return tree


def machine(device: torch.device) -> str:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return f"{device} ({name}), {torch.get_num_threads()} threads of {os.cpu_count()} cores, torch {torch.__version__}"


# ---- the table


def heading() -> str:
    return f"{'':66} {'ours':>22} {'against':>26} {'ratio':>7} {'images/s':>9} {'memory':>22}"


def line(row: Row) -> str:
    ratio = f"{row.ratio:.2f}x"
    rate = f"{row.images / row.ours.median:.1f}" if row.images else ""
    return (
        f"{row.what:66.66} {times(row.ours):>22} {row.against[:26]:>26} {times(row.other):>22} {ratio:>7} {rate:>9}"
        f" {memory(row.ours)} / {memory(row.other)}"
    )


def times(measured: Measured) -> str:
    """'0.512 s (0.49-0.55)'."""
    low, high = min(measured.seconds), max(measured.seconds)
    unit, factor = ("s", 1) if measured.median >= 1 else ("ms", 1000)
    return f"{factor * measured.median:.2f} {unit} ({factor * low:.1f}-{factor * high:.1f})"


def memory(measured: Measured) -> str:
    return "-" if measured.memory is None else f"{measured.memory / 2**20:.0f} MiB"


def as_json(row: Row) -> dict[str, Any]:
    sides = {
        name: {"seconds": list(side.seconds), "median": side.median, "peak_bytes": side.memory}
        for name, side in (("ours", row.ours), ("other", row.other))
    }
    return {
        "what": row.what, "against": row.against, **sides, "ratio": row.ratio, "memory_ratio": row.memory_ratio,
        "images_per_second": row.images / row.ours.median if row.images else None,
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
