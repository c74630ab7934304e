"""What a run tells: a line on the screen, a line in log.jsonl, and the numbers to whatever tracker the user has."""

import json
import sys
import time
from pathlib import Path
from typing import Any, Iterator, Sequence

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from tqdm import tqdm

from ..errors import ConfigError
from ..files import write_text


def check_trackers(names: Sequence[str]) -> None:
    """Refuses trackers that Accelerate does not know, and those that are not installed, which it would leave out unsaid."""
    for name in names:
        if name not in ("all", *LOGGER_TYPE_TO_CLASS):
            raise ConfigError(f"run.trackers has {name!r}; Accelerate knows all, {', '.join(sorted(LOGGER_TYPE_TO_CLASS))}")
        if name != "all" and name not in map(str, get_available_trackers()):
            raise ConfigError(f"run.trackers has {name!r}, which is not installed; pip install it, or take it out")


class RunLog:
    """Speaks for the main process; on the others every call is silent.

    On a terminal there is a progress bar with lines above it, elsewhere (a file, a batch system) lines alone.
    """

    def __init__(self, folder: Path, accelerator: Accelerator, steps: int, first: int):
        self.path, self.accelerator, self.steps = folder / "log.jsonl", accelerator, steps
        self.main = accelerator.is_main_process
        if self.main:
            cut_back(self.path, first)
        self.file = open(self.path, "a", buffering=1) if self.main else None
        shown = self.main and sys.stderr.isatty()
        self.bar = tqdm(total=steps, initial=first, disable=not shown, unit="step", dynamic_ncols=True, smoothing=0.1)

    def say(self, text: str) -> None:
        """A sentence for the reader, above the bar."""
        if self.main:
            self.bar.write(text, file=sys.stderr) if not self.bar.disable else print(text, file=sys.stderr, flush=True)

    def record(self, kind: str, step: int, values: dict) -> None:
        """A line of JSON, and the numbers among the values to the trackers."""
        if self.main:
            self.file.write(json.dumps({"kind": kind, "step": step, "time": round(time.time(), 3), **values}) + "\n")
        self.accelerator.log({f"{kind}/{name}": value for name, value in numbers(values)}, step=step)

    def progress(self, step: int, values: dict) -> None:
        """The figures of the last few steps; `step` steps are done."""
        self.record("train", step, values)
        terms = [f"{name} {values[name]:.3f}" for name in values if name.startswith("loss/")]
        shown = [term.removeprefix("loss/") for term in terms]
        if "confident" in values:
            shown.append(f"confident {values['confident']:.0%}")
        shown += [f"{values['images_per_second']:.1f} images/s", f"waiting {values['waiting']:.0%}"]
        if not self.bar.disable:
            self.bar.n = step
            self.bar.set_postfix_str("  ".join(shown))
        elif self.main:
            left = clock(values["seconds_left"])
            print(f"step {step}/{self.steps}  " + "  ".join(shown) + f"  {left} left", file=sys.stderr, flush=True)

    def close(self) -> None:
        self.bar.close()
        if self.file is not None:
            self.file.close()


def cut_back(path: Path, step: int) -> None:
    """Drops what a killed run wrote after the checkpoint that is resumed from, and a half-written last line."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        if entry["step"] <= step:
            kept.append(line)
    write_text(path, "".join(line + "\n" for line in kept))


def numbers(values: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """The numbers among the values, those of one dict further down as OUTER/INNER."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from ((f"{name}/{inner}", number) for inner, number in value.items() if is_number(number))
        elif is_number(value):
            yield name, value


def is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def clock(seconds: float) -> str:
    """'1:02:03' or '2:03'."""
    minutes, seconds = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
