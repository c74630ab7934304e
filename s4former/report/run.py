"""What lies in the folder of a run, read for its report: whether it is training, was killed, or has ended."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Entry = dict[str, Any]


class ReportError(ValueError):
    """A folder of which no report can be made; the message says why, and what to give instead."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """entries: the lines of log.jsonl by kind, each in order of steps. The rest is empty as long as it is not written."""

    folder: Path
    config: dict[str, Any]
    entries: dict[str, list[Entry]]
    confusion: dict[str, Any]
    results: dict[str, Any]

    def last(self, kind: str) -> Entry:
        return self.entries.get(kind, [{}])[-1]

    @property
    def start(self) -> Entry:
        """What was said when the run began, or went on for the last time."""
        return self.last("start")

    @property
    def classes(self) -> list[str]:
        return list(self.start["classes"])

    @property
    def roles(self) -> list[str]:
        """The networks that were evaluated, the one to use first."""
        return [role for role in ("teacher", "student") if f"evaluation/{role}" in self.entries]

    @property
    def steps(self) -> int:
        return self.config["schedule"]["steps"]

    @property
    def step(self) -> int:
        """The last step that the log knows of."""
        return max((entries[-1]["step"] for entries in self.entries.values()), default=0)

    @property
    def ended(self) -> bool:
        return bool(self.results)

    def curve(self, kind: str, name: str) -> list[tuple[float, float]]:
        """(step, value) of a number of the log, where it is there."""
        return [(entry["step"], entry[name]) for entry in self.entries.get(kind, []) if entry.get(name) is not None]

    def class_curve(self, kind: str, name: str, of: str) -> list[tuple[float, float]]:
        """(step, value) of one class of a mapping such as `share` or `iou`."""
        pairs = [(entry["step"], entry.get(name, {}).get(of)) for entry in self.entries.get(kind, [])]
        return [(step, value) for step, value in pairs if value is not None]

    def best(self, role: str) -> Entry:
        """The evaluation with the highest mean IoU, the first of equals."""
        return max(self.entries[f"evaluation/{role}"], key=lambda entry: (entry["mean_iou"] or 0, -entry["step"]))


def read_run(folder: str | Path) -> Run:
    """Everything a report is made of.

    Raises:
        ReportError: this is not the folder of a run that has begun.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file() or not (folder / "log.jsonl").is_file():
        raise ReportError(f"{folder} has no config.json and log.jsonl; give the folder that train_semi.py writes")
    entries: dict[str, list[Entry]] = {}
    for line in (folder / "log.jsonl").read_text().splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue  # the half-written last line of a run that is training, or was killed
        entries.setdefault(entry["kind"], []).append(entry)
    if "start" not in entries:
        raise ReportError(
            f"{folder}/log.jsonl has no line of the kind 'start'; it is of an older version, or of a run that never began"
        )
    confusion, results = read_json(folder / "confusion.json"), read_json(folder / "results.json")
    config = json.loads((folder / "config.json").read_text())
    if results.get("steps") != config["schedule"]["steps"]:
        results = {}
    return Run(folder=folder, config=config, entries=entries, confusion=confusion, results=results)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file, empty if it is not there."""
    return json.loads(path.read_text()) if path.is_file() else {}
