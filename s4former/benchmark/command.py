"""Times the parts of a training; attention, losses, moving average and windows against plain implementations of the same.

    s4former benchmark
    s4former benchmark step losses --config configs/voc_92.json run.batch.rounds=2 --json speed.json
    s4former benchmark bytes --bandwidth 4800 --matrix-rate 790   # counted, not run; an H200
    s4former benchmark gpu --minutes 5                            # measures a GPU whole, within a time; see its --help

Nothing is downloaded: networks have random weights, and where the data of the config is missing, images are drawn.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import load, to_dict
from ..errors import ConfigError, reports_errors

if TYPE_CHECKING:
    import torch

    from .timing import Benchmark, Measurement, Row

PARTS = {  # name -> the module in which a function of this name yields its rows
    "step": "training_parts",
    "attention": "training_parts",
    "losses": "training_parts",
    "ema": "training_parts",
    "loader": "data_parts",
    "windows": "data_parts",
    "memory": "training_parts",
    "bytes": "operations",
}


@reports_errors("s4former benchmark")
def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["gpu"]:
        from . import gpu

        return gpu.main(arguments[1:])
    options = parse(arguments)
    parts, overrides = split_arguments(options.arguments)
    if options.json and not Path(options.json).absolute().parent.is_dir():
        raise ConfigError(f"--json {options.json}: there is no such folder to write it into; make it first")
    if (options.bandwidth is None) != (options.matrix_rate is None):
        raise ConfigError("only one of --bandwidth and --matrix-rate is given; the least time of a step needs both")
    rates = (1e9 * options.bandwidth, 1e12 * options.matrix_rate) if options.bandwidth else None
    config = load([options.config] if options.config else [], overrides)

    import torch  # not before the arguments are checked: it takes seconds

    from .inputs import benchmark_inputs
    from .timing import Benchmark, Timer

    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    with tempfile.TemporaryDirectory() as folder:
        config, sources, data = benchmark_inputs(config, Path(folder))
        benchmark = Benchmark(config=config, sources=sources, timer=Timer(device, options.repeats), rates=rates)
        print(f"{describe_machine(device)}; {data}", flush=True)
        rows = run(benchmark, parts)
    if options.json:
        report = {"machine": describe_machine(device), "config": to_dict(config), "rows": rows, "facts": benchmark.facts}
        Path(options.json).write_text(json.dumps(report, indent=2) + "\n")
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="s4former benchmark", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("arguments", nargs="*", metavar="PART or section.key=value", help=f"{', '.join(PARTS)}; default: all")
    add("--config", metavar="FILE", help="default: the paper's setting for VOC")
    add("--device", help="cpu, cuda, cuda:1; default: a GPU where there is one")
    add("--repeats", type=int, default=5, metavar="N", help="timed runs of each implementation (default 5)")
    add("--bandwidth", type=float, metavar="GB/s", help="of a device's memory, for the least time of a step in `bytes`")
    add("--matrix-rate", type=float, metavar="TFLOP/s", help="of the same device's matrix products in bfloat16")
    add("--json", metavar="FILE", help="write all numbers")
    return parser.parse_intermixed_args(arguments)


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The parts, in the order of PARTS, and the overrides."""
    overrides = [argument for argument in arguments if "=" in argument]
    named = [argument for argument in arguments if "=" not in argument]
    for name in named:
        if name not in (*PARTS, "all"):
            raise ConfigError(f"there is no part {name!r}; one of {', '.join(PARTS)} or all")
    return [part for part in PARTS if not named or "all" in named or part in named], overrides


def describe_machine(device: "torch.device") -> str:
    import torch

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return f"{device} ({name}), {torch.get_num_threads()} threads of {os.cpu_count()} cores, torch {torch.__version__}"


def run(benchmark: "Benchmark", parts: Sequence[str]) -> list[dict[str, Any]]:
    """Runs the parts in order, prints each row as soon as it is made, and returns them for the JSON."""
    print(f"{'':66} {'ours':>22} {'against':>26} {'ratio':>7} {'images/s':>9} {'memory':>22}", flush=True)
    rows = []
    for part in parts:
        for row in getattr(import_module(f"{__package__}.{PARTS[part]}"), part)(benchmark):
            print(table_row(row), flush=True)
            rows.append({"part": part, **as_dict(row)})
    for note in benchmark.notes:
        print(note)
    return rows


def table_row(row: "Row") -> str:
    rate = f"{row.images_per_second:.1f}" if row.images else ""
    ratio, memory = f"{row.ratio:.2f}x" if row.other else "", " / ".join(format_memory(each) for each in (row.ours, row.other) if each)
    return (
        f"{row.name:66.66} {format_times(row.ours):>22} {row.against[:26]:>26} {format_times(row.other):>22}"
        f" {ratio:>7} {rate:>9} {memory}"
    )


def format_times(measurement: "Measurement | None") -> str:
    """'0.51 s (0.5-0.6)': the median and the range."""
    if measurement is None:
        return ""
    median = measurement.median
    unit, factor = ("s", 1) if median >= 1 else ("ms", 1000)
    return f"{factor * median:.2f} {unit} ({factor * min(measurement.seconds):.1f}-{factor * max(measurement.seconds):.1f})"


def format_memory(measurement: "Measurement") -> str:
    return "-" if measurement.peak_bytes is None else f"{measurement.peak_bytes / 2**20:.0f} MiB"


def as_dict(row: "Row") -> dict[str, Any]:
    sides = {
        name: {"seconds": list(side.seconds), "median": side.median, "peak_bytes": side.peak_bytes}
        for name, side in (("ours", row.ours), ("other", row.other)) if side
    }  # fmt: skip
    return {
        "what": row.name, "against": row.against, **sides, "ratio": row.ratio, "memory_ratio": row.memory_ratio,
        "images_per_second": row.images_per_second,
    }  # fmt: skip
