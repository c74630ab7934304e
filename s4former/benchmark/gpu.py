"""A measurement of a GPU in a few minutes: steps, kernels, agreement of precisions, parts, and what torch.compile gains.

    s4former benchmark gpu --minutes 5 -o gpu                # writes gpu.json and gpu.md
    s4former benchmark gpu --rehearse                        # tiny sizes, on a CPU too: shows that every part runs

Every part has a share of the time and is cut off at its end; both files are written after each part, so that a stop loses
only the part that it falls into. What a machine cannot run (PASA over DINOv2 before transformers 5.23) says so and is left out.
"""

import argparse
import json
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass

SHARES = {  # name of a part -> its share of the time; what a part leaves is the next one's
    "steps": 0.34,
    "kernels": 0.05,
    "agreement": 0.1,
    "enlargement": 0.03,
    "losses": 0.04,
    "ema": 0.02,
    "attention": 0.1,
    "windows": 0.06,
    "yardstick": 0.1,
    "compiled": 0.16,
}


class OutOfTimeError(BaseException):
    """The time of a part is over; no `Exception`, so that no compiler catches it."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    import torch

    from .command import as_dict, describe_machine, table_row
    from .gpu_parts import PARTS, benchmark_for

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not options.rehearse:
        print("\ns4former benchmark gpu: torch sees no GPU; --rehearse runs tiny sizes without one", file=sys.stderr)
        return 1
    report: dict[str, Any] = {"machine": describe_machine(device), "versions": versions(), "parts": {}}
    print(report["machine"], flush=True)
    begin, end = time.monotonic(), 0.0
    with tempfile.TemporaryDirectory() as folder:
        benchmark = benchmark_for(device, Path(folder), tiny=options.rehearse)
        for name, share in SHARES.items():
            end += 60 * options.minutes * share
            part = report["parts"][name] = {"rows": [], "notes": benchmark.notes}
            started = time.monotonic()
            try:
                with time_limit(begin + end - started):
                    for row in PARTS[name](benchmark):
                        part["rows"].append(as_dict(row))
                        print(table_row(row), flush=True)
            except OutOfTimeError:
                part["stopped"] = "its time was over"
            except Exception as error:  # whatever a driver, a compiler or a small card raises: the other parts go on
                part["stopped"] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            part["notes"], part["seconds"] = benchmark.notes.copy(), round(time.monotonic() - started, 1)
            print(*part["notes"], f"{name}: {part.get('stopped', 'done')}, {part['seconds']} s", sep="\n", flush=True)
            benchmark.notes.clear()
            write(report, options.output)
            free(device)
    print(f"written: {options.output}.json, {options.output}.md")
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="s4former benchmark gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=5, metavar="M", help="of all parts together (default 5)")
    parser.add_argument("--rehearse", action="store_true", help="tiny networks and images, on a CPU too")
    parser.add_argument("-o", "--output", default="gpu_benchmark", metavar="NAME", help="of the files NAME.json and NAME.md")
    return parser.parse_args(arguments)


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raises `OutOfTimeError` in what runs inside once the seconds are over; a single operation is not interrupted."""

    def stop(number: int, frame: object) -> None:
        raise OutOfTimeError

    if seconds <= 0:
        raise OutOfTimeError
    handler = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)


def free(device: Any) -> None:
    import gc

    import torch

    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "transformers", "accelerate", "timm")}


def write(report: dict[str, Any], output: str) -> None:
    """The report as JSON, and as Markdown with a table for each part."""
    from ..files import write_text

    write_text(Path(f"{output}.json"), json.dumps(report, indent=2) + "\n")
    write_text(Path(f"{output}.md"), markdown(report))


def markdown(report: dict[str, Any]) -> str:
    text = [f"# {report['machine']}", ", ".join(f"{name} {number}" for name, number in report["versions"].items())]
    for name, part in report["parts"].items():
        text.append(f"## {name} ({part['seconds']} s)")
        if part["rows"]:
            head = ("what", "ms", "GiB", "against", "its ms", "its GiB", "ratio", "images/s")
            text.append("\n".join(["| " + " | ".join(head) + " |", "|---" * len(head) + "|", *map(markdown_row, part["rows"])]))
        text += part["notes"]
        if "stopped" in part:
            text.append(f"Stopped: {part['stopped']}.")
    return "\n\n".join(text) + "\n"


def markdown_row(row: dict[str, Any]) -> str:
    def side(name: str) -> list[str]:
        if name not in row:
            return ["", ""]
        peak = row[name]["peak_bytes"]
        return [f"{1000 * row[name]['median']:.2f}", "" if peak is None else f"{peak / 2**30:.2f}"]

    numbers = [f"{value:.2f}" if value else "" for value in (row["ratio"], row["images_per_second"])]
    return "| " + " | ".join([row["what"], *side("ours"), row["against"], *side("other"), *numbers]) + " |"
