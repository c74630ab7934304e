"""Times the parts of a training; attention, losses, moving average and windows against plain implementations of the same.

    s4former benchmark step losses --config configs/voc_92.json run.batch.rounds=2 -o speed     # writes speed.json and speed.md
    s4former benchmark bytes --bandwidth 4800 --matrix-rate 790   # counted, not run; an H200
    s4former benchmark gpu --minutes 5 -o gpu                     # a GPU: four networks, kernels, agreement of precisions, all parts
    s4former benchmark gpu --rehearse                             # the same in tiny sizes, on a CPU too

Nothing is downloaded: networks have random weights, and where the data of the config is missing, scenes are drawn. Of `gpu`
every part has a share of the time and is cut off at its end; a part that fails (PASA over DINOv2 before transformers 5.23) says
so, and the others go on. The files are written after each part, so that a stop loses only the part that it falls into.
"""

import argparse
import gc
import json
import os
import platform
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import load
from ..errors import ConfigError, at_least, reports_errors
from ..files import write_text
from .gpu import PLAN

if TYPE_CHECKING:
    import torch

PARTS = {  # name -> the module in which a function of this name yields rows of the table, and lines below it
    "step": "steps", "kernels": "steps", "agreement": "steps", "yardstick": "steps", "compiled": "steps", "memory": "steps",
    "bytes": "operations", "attention": "parts", "enlargement": "parts", "losses": "parts", "ema": "parts", "windows": "parts",
}  # fmt: skip
COLUMNS = {"what": 60, "ms": 10, "GiB": 6, "against": 22, "its ms": 10, "its GiB": 7, "ratio": 6, "images/s": 8}  # with widths


class OutOfTimeError(BaseException):
    """The time of a part is over; no `Exception`, so that no compiler catches it."""


@reports_errors("s4former benchmark")
def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    names = [word for word in options.arguments if "=" not in word]
    overrides = [word for word in options.arguments if "=" in word]
    unknown = [name for name in names if name not in (*PARTS, "gpu")]
    if unknown or not names:
        found = f"there is no part {unknown[0]!r}" if unknown else "no part is named"
        raise ConfigError(f"{found}; name some of {', '.join(PARTS)}, or gpu")
    if "gpu" in names and (len(names) > 1 or overrides or options.config):
        raise ConfigError("gpu has parts and configs of its own; leave out the other words and --config")
    if options.output and not Path(options.output).absolute().parent.is_dir():
        raise ConfigError(f"-o {options.output}: there is no such folder to write it into; make it first")
    if options.output and options.config and Path(f"{options.output}.json").resolve() == Path(options.config).resolve():
        raise ConfigError(f"-o {options.output} would write the report over the config {options.config}; take another name")
    if (options.bandwidth is None) != (options.matrix_rate is None):
        raise ConfigError("only one of --bandwidth and --matrix-rate is given; the least time of a step needs both")
    config = load([options.config] if options.config else [], overrides)

    import torch  # not before the arguments are checked: it takes seconds

    try:
        device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"--device {options.device}: {str(error).splitlines()[0]}; write cpu, or cuda where torch sees a GPU") from None
    if "gpu" in names and device.type == "cpu" and not options.rehearse:
        raise ConfigError("torch sees no GPU; --rehearse runs tiny sizes without one")
    plan: dict[str, tuple] = {name: (name, config, None) for name in names}  # title -> part, its config and its seconds
    if "gpu" in names:
        options.output = options.output or "gpu_benchmark"
        plan = {
            title: (entry.part, entry.config(tiny=options.rehearse), 60 * options.minutes * entry.share)
            for title, entry in PLAN.items()
        }
    run(plan, device, options)
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="s4former benchmark", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("arguments", nargs="*", metavar="PART or section.key=value", help=f"{', '.join(PARTS)}; or gpu: most of them, on a GPU")
    add("--config", metavar="FILE", help="default: the paper's setting for VOC")
    add("--device", help="cpu, cuda, cuda:1; default: a GPU where there is one")
    add("--repeats", type=at_least(1), default=5, metavar="N", help="timed runs of each implementation (default 5)")
    add("--bandwidth", type=float, metavar="GB/s", help="of a device's memory, for the least time of a step in `bytes`")
    add("--matrix-rate", type=float, metavar="TFLOP/s", help="of the same device's matrix products in bfloat16")
    add("--minutes", type=float, default=5, metavar="M", help="of `gpu`, all parts together (default 5)")
    add("--rehearse", action="store_true", help="of `gpu`: tiny networks and images")
    add("-o", "--output", metavar="NAME", help="write NAME.json, with all numbers, and NAME.md; default of `gpu`: gpu_benchmark")
    return parser.parse_intermixed_args(arguments)


def run(plan: dict[str, tuple], device: "torch.device", options: argparse.Namespace) -> None:
    """Runs the parts in order; prints each row as soon as it is made, and writes the report after each part."""
    import torch

    from .inputs import benchmark_inputs
    from .timing import Benchmark

    rates = (1e9 * options.bandwidth, 1e12 * options.matrix_rate) if options.bandwidth else None
    packages = {name: version(name) for name in ("torch", "transformers", "accelerate", "timm")}
    report: dict[str, Any] = {"machine": describe_machine(device), "versions": packages, "parts": {}}
    print(report["machine"], table_line(COLUMNS), sep="\n", flush=True)
    begin, end = time.monotonic(), 0.0
    for title, (name, config, seconds) in plan.items():
        part = report["parts"][title] = {"rows": [], "notes": []}
        started, end = time.monotonic(), end + (seconds or 0)
        try:
            with time_limit(seconds and begin + end - started):
                config, sources, part["data"] = benchmark_inputs(config)
                print(f"{title}: {part['data']}", flush=True)
                benchmark = Benchmark(config=config, sources=sources, device=device, repeats=options.repeats, rates=rates)
                for found in getattr(import_module(f"{__package__}.{PARTS[name]}"), name)(benchmark):
                    part["notes" if isinstance(found, str) else "rows"].append(found)
                    print(f"{title}: {found}" if isinstance(found, str) else row_line(found), flush=True)
        except OutOfTimeError:
            part["stopped"] = "its time was over"
        except Exception as error:  # of `gpu`, whatever a driver, a compiler or a small card raises: the other parts go on
            if seconds is None:
                raise
            part["stopped"] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        part["seconds"] = round(time.monotonic() - started, 1)
        print(f"{title}: {part.get('stopped', 'done')}, {part['seconds']} s", flush=True)
        if options.output:
            write_text(Path(f"{options.output}.json"), json.dumps(report, indent=2) + "\n")
            write_text(Path(f"{options.output}.md"), markdown(report))
        gc.collect()
        torch.cuda.empty_cache()


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Raises `OutOfTimeError` in what runs inside once the seconds are over; a single operation is not interrupted."""

    def stop(number: int, frame: object) -> None:
        raise OutOfTimeError

    if seconds is None:
        yield
        return
    if seconds <= 0:
        raise OutOfTimeError
    handler = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)


def describe_machine(device: "torch.device") -> str:
    import torch

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return f"{device} ({name}), {torch.get_num_threads()} threads of {os.cpu_count()} cores"


def markdown(report: dict[str, Any]) -> str:
    """The report with a table for each part that has rows."""
    text = [f"# {report['machine']}", ", ".join(f"{name} {number}" for name, number in report["versions"].items())]
    for title, part in report["parts"].items():
        text.append(f"## {title} ({part['seconds']} s)")
        if part["rows"]:
            text.append("\n".join([table_line(COLUMNS), table_line(["---"] * len(COLUMNS)), *map(row_line, part["rows"])]))
        text += part["notes"]
        if "stopped" in part:
            text.append(f"Stopped: {part['stopped']}.")
    return "\n\n".join(text) + "\n"


def row_line(row: dict[str, Any]) -> str:
    sides = [
        [f"{1000 * row[side]['median']:.2f}", f"{row[side]['peak_bytes'] / 2**30:.2f}"] if side in row else ["", ""]
        for side in ("ours", "other")
    ]
    ratio, rate = (f"{row[name]:.2f}" if row[name] else "" for name in ("ratio", "images_per_second"))
    return table_line([row["what"], *sides[0], row["against"], *sides[1], ratio, rate])


def table_line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, COLUMNS.values())) + " |"
