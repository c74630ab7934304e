"""What the folder of a run holds for its report, while it is training, after it was killed, and when it has ended."""

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError

Entry = dict[str, Any]
MODES = {"whole": "whole images", "sliding": "windows"}


class ReportError(UserError):
    """A folder of which no report can be made; the message says why, and what to give instead."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """entries: the lines of log.jsonl by kind, in order of steps. confusion, results: empty until they are written."""

    folder: Path
    config: dict[str, Any]
    entries: dict[str, list[Entry]]
    confusion: dict[str, Any]
    results: dict[str, Any]

    def last(self, kind: str) -> Entry:
        return self.entries.get(kind, [{}])[-1]

    @property
    def classes(self) -> list[str]:
        return self.last("start")["classes"]

    @property
    def roles(self) -> list[str]:
        """The networks that were evaluated, the one to use first."""
        return [role for role in ("teacher", "student") if f"evaluation/{role}" in self.entries]

    @property
    def step(self) -> int:
        """The last step in the log."""
        return max(entries[-1]["step"] for entries in self.entries.values())

    def curve(self, kind: str, name: str, class_name: str | None = None) -> list[tuple[float, float]]:
        """(step, value) of a number in the log, or of one class of a mapping such as `share`, wherever it is logged."""
        values = [(entry["step"], entry.get(name)) for entry in self.entries.get(kind, [])]
        if class_name is not None:
            values = [(step, (value or {}).get(class_name)) for step, value in values]
        return [(step, value) for step, value in values if value is not None]

    def best(self, role: str) -> Entry:
        """The evaluation whose model is in best-*/: with the highest mean IoU of those that can be compared, the first of equals."""
        entries = self.entries[f"evaluation/{role}"]
        marked = [entry for entry in entries if entry.get("best")]  # older versions marked none
        return marked[-1] if marked else max(entries, key=lambda entry: entry["mean_iou"] or 0)


def read_log(path: Path) -> list[Entry]:
    """The lines of log.jsonl; one that is half written, of a run that is training or was killed, is left out."""
    entries = []
    for line in path.read_text().splitlines() if path.exists() else []:
        with suppress(json.JSONDecodeError):
            entries.append(json.loads(line))
    return entries


def read_run(folder: str | Path) -> Run:
    """Raises ReportError for what is not the folder of a run that has started."""
    folder = Path(folder)
    entries: dict[str, list[Entry]] = {}
    for entry in read_log(folder / "log.jsonl"):
        entries.setdefault(entry["kind"], []).append(entry)
    if "start" not in entries or not (folder / "config.json").is_file():
        what = f"{folder} has no config.json and log.jsonl of a run that has begun"
        raise ReportError(f"{what}; give the folder that train_semi.py writes")
    files = [folder / f"{name}.json" for name in ("config", "confusion", "results")]
    config, confusion, results = (json.loads(path.read_text()) if path.is_file() else {} for path in files)
    ended = results.get("steps") == config["schedule"]["steps"]  # else the results are of a shorter training, which goes on
    return Run(folder=folder, config=config, entries=entries, confusion=confusion, results=results if ended else {})


def compare_modes(evaluation: dict[str, Any], score: Entry) -> tuple[str, str]:
    """'best on windows (58.90 mIoU; on whole images 56.40)', and '--sliding-window', which evaluate.py needs for it.

    Both are empty where one mode was measured. evaluation: the section of the config. score: as in results.json.
    """
    mode, other = evaluation["mode"], score.get("other_mode", {})
    if other.get("mean_iou") is None:
        return "", ""
    scores = ((score["mean_iou"], mode), (other["mean_iou"], other["mode"]))
    (first, best), (second, worse) = sorted(scores, key=lambda each: -each[0])  # of equals that of the config
    flag = "" if best == mode else "--sliding-window" if best == "sliding" else "evaluation.mode=whole"
    return f"best on {MODES[best]} ({100 * first:.2f} mIoU; on {MODES[worse]} {100 * second:.2f})", flag
