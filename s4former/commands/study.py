"""A grid of runs, side by side, each archived as it ends: `python -m s4former.commands.study GRID.json`.

    {"name": "parts", "config": ["configs/voc_local.json"], "overrides": ["schedule.steps=2200",
     "data.labeled=seed{seed}/labeled_92.txt"], "draws": {"seed": [10, 11]},
     "methods": {"base": ["configs/methods/base.json"], "s4former": [], "no_pasa": ["method.pasa=none"]}}

Every method is run on every draw, all methods of the first draw first. A method is a list of config files and
section.key=value over what all share; {seed} and other names of the draw stand for their values, and run.seed is the seed.
The same command goes on after any stop. A run that the archive has is not run again: its key is the SHA-256 of its
config without paths and what has no influence on the numbers, the hashes of its image lists and weights, and NUMERICS.
Compare the methods with `python -m s4former.commands.table --paired METHOD ARCHIVE`.
"""

import argparse
import fcntl
import itertools
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Sequence

import torch

from ..errors import ConfigError, DataError
from ..files import write_text
from ..training.archive import ArchiveError, append, identity, read_archive
from .grid import Run, read_grid, runs_of

SCRIPT = Path(__file__).parent.parent.parent / "train_semi.py"
MEMORY, CARD = 2, 4  # GiB of one run, on the host and on a card
LARGEST = 5 * 2**20  # bytes of an archive that is kept under version control


# ---- from a run to its line


def finished_line(run: Run, folder: Path, commit: str) -> dict[str, Any]:
    """The line of a run that has ended, from its folder; no path of this machine is in it."""
    results, log = json.loads((folder / "results.json").read_text()), read_log(folder / "log.jsonl")
    images = json.loads((folder / "image_counts.json").read_text())
    start = next(entry for entry in log if entry["kind"] == "start")
    return {
        **run.line,
        "commit": commit,
        "machine": {"device": device_name(start["device"]), "precision": start["precision"], **start["versions"]},
        "seconds": round(3600 * results["hours"], 1),
        "images_per_second": results["images_per_second"],
        "peak_memory_gib": results["peak_memory_gib"],
        "last": shortened(results["last"]),
        "best": {role: shortened({"mean_iou": best["mean_iou"], "step": best["step"]}) for role, best in results["best"].items()},
        "train": columns([entry for entry in log if entry["kind"] == "train"]),
        "evaluations": [
            shortened({name: value for name, value in entry.items() if name != "time"})
            for entry in log
            if entry["kind"].startswith("evaluation/")
        ],
        "images": images,
    }


def read_log(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def columns(entries: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """The losses, the confident share and the gradient by name, a value for each line of the log."""
    names = dict.fromkeys(itertools.chain(*entries))
    names = [name for name in names if name.startswith("loss/") or name in ("step", "confident", "gradient")]
    return {name: [shortened(entry.get(name)) for entry in entries] for name in names}


def shortened(value: Any) -> Any:
    """Numbers to five digits, in dicts too."""
    if isinstance(value, dict):
        return {name: shortened(inner) for name, inner in value.items()}
    return float(f"{value:.5g}") if isinstance(value, float) else value


def device_name(device: str) -> str:
    """'1 x NVIDIA H200'; of a CPU its model, or else its architecture."""
    if not device.endswith("cpu"):
        return device
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{device}, {model}"


def commit_of(folder: Path) -> str:
    """The commit that is checked out, with +dirty behind it if a file differs from it; empty outside of a repository."""
    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True).stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        return commit + ("+dirty" if commit and git("status", "--porcelain", "--untracked-files=no") else "")
    except FileNotFoundError:  # no git here
        return ""


# ---- running them


@dataclass
class Place:
    """A run that is under way: its process, and the lock that the process holds as well, so that it outlives us."""

    run: Run
    folder: Path
    lock: int
    process: subprocess.Popen
    started: float = field(default_factory=time.monotonic)


@dataclass
class Study:
    """What is under way and what has come of it."""

    runs: list[Run]
    archive: Path
    work: Path
    jobs: int
    threads: int
    keep: bool
    commit: str
    places: list[Place] = field(default_factory=list)
    failed: list[Place] = field(default_factory=list)
    elsewhere: list[Run] = field(default_factory=list)
    signal: int = 0

    def go(self) -> int:
        """Until every run is archived, has failed, or a signal came; the exit status."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.note)
        try:
            self.work_through(list(self.runs))
        finally:  # an archive that cannot be written must not leave processes behind
            for place in self.places:
                place.process.terminate()
            for place in self.places:
                place.process.wait()
        if self.signal:
            print(f"stopped by {signal.Signals(self.signal).name}; the same command goes on", flush=True)
            return 128 + self.signal
        for place in self.failed:
            print(f"failed: {place.run.title}, see {place.folder}.log: {last_line(place.folder)}", file=sys.stderr)
        for run in self.elsewhere:
            print(f"left to the process that is at it: {run.title}", file=sys.stderr)
        return 1 if self.failed else 0

    def work_through(self, todo: list[Run]) -> None:
        while self.places or (todo and not self.signal):
            while todo and len(self.places) < self.jobs and not self.signal:
                self.start(todo.pop(0))
            time.sleep(0.1)
            for place in [place for place in self.places if place.process.poll() is not None]:
                self.places.remove(place)
                self.end(place)

    def note(self, number: int, frame: object) -> None:
        self.signal = self.signal or number
        for place in self.places:
            place.process.send_signal(signal.SIGTERM)

    def start(self, run: Run) -> None:
        """Starts a run, unless it is archived, another process is at it, or it had come to its end before."""
        folder = self.work / run.key[:16]
        lock = os.open(f"{folder}.lock", os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            self.elsewhere.append(run)
            return
        if self.known(run):
            os.close(lock)
            return
        config = Path(f"{folder}.json")
        write_text(config, json.dumps(run.tree, indent=2) + "\n")
        command = [sys.executable, str(SCRIPT), "--config", str(config), "--resume", f"run.output={folder}"]
        ended = (folder / "results.json").exists()
        with open(f"{folder}.log", "ab") as log:
            process = subprocess.Popen(
                ["true"] if ended else command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[lock],
                env={**os.environ, "OMP_NUM_THREADS": str(self.threads)},
            )  # fmt: skip
        self.places.append(Place(run, folder, lock, process))
        if self.signal:  # it came between the question above and now
            process.send_signal(signal.SIGTERM)

    def known(self, run: Run) -> bool:
        """Whether the archive has the run; where that was under another name, a short line says so."""
        same = next((line for line in read_archive(self.archive) if line["key"] == run.key), None)
        if same and identity(same) != identity(run.line):
            append(self.archive, {**run.line, "same": True})
        return same is not None

    def end(self, place: Place) -> None:
        """Archives a run that came to its end."""
        status = place.process.returncode
        if status == 0:
            line = finished_line(place.run, place.folder, self.commit)
            append(self.archive, line)
            scores = ", ".join(f"{role} {100 * score['mean_iou']:.2f}" for role, score in line["last"].items())
            print(f"{place.run.title}: {scores}; {time.monotonic() - place.started:.0f} s", flush=True)
            if not self.keep:
                shutil.rmtree(place.folder, ignore_errors=True)
                for suffix in ("log", "json", "lock"):
                    Path(f"{place.folder}.{suffix}").unlink(missing_ok=True)
        elif not self.signal:
            print(f"{place.run.title}: failed with status {status}", flush=True)
            self.failed.append(place)
        os.close(place.lock)


def last_line(folder: Path) -> str:
    """Of what a run said."""
    lines = Path(f"{folder}.log").read_text(errors="replace").split("\n")
    return next((line for line in reversed(lines) if line.strip()), "it said nothing")


def room(cores: int) -> int:
    """How many runs fit side by side: a core and MEMORY GiB for each, and CARD GiB of a card where there is one."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))  # KiB
    places = [cores, free // (MEMORY * 2**20)]
    if torch.cuda.is_available():
        places.append(torch.cuda.mem_get_info()[0] // (CARD * 2**30))
    return max(1, min(places))


def read_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m s4former.commands.study", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("grid", type=Path, metavar="GRID", help="JSON file with name, config, overrides, draws and methods")
    parser.add_argument(
        "--set", action="append", default=[], metavar="section.key=value",
        help="goes over the grid's overrides, such as data.root=FOLDER; may be given again",
    )  # fmt: skip
    parser.add_argument(
        "--archive", type=Path, default=Path("docs/measured/archive.jsonl.gz"), metavar="FILE",
        help="receives a line for each finished run (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--work", type=Path, default=Path("runs/study"), metavar="FOLDER",
        help="for the folders of the runs; a run is under way once in it (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--jobs", type=int, metavar="N", help="runs side by side (default: as many as there is room for)")
    parser.add_argument("--keep", action="store_true", help="do not delete the folder of a run that has been archived")
    parser.add_argument("--dry-run", action="store_true", help="list the runs and which of them the archive has")
    options = parser.parse_args(arguments)
    if options.jobs is not None and options.jobs < 1:
        parser.error(f"--jobs is {options.jobs}; write at least 1")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = read_arguments(arguments)
    try:
        runs = runs_of(read_grid(options.grid), options.set)
        done = {line["key"] for line in read_archive(options.archive)}
        print(f"{len(runs)} runs, {sum(run.key in done for run in runs)} of them in {options.archive}", flush=True)
        if options.dry_run:
            print("\n".join(f"{run.key[:16]}  {'done' if run.key in done else 'to do'}  {run.title}" for run in runs))
            return 0
        cores = len(os.sched_getaffinity(0))
        jobs = options.jobs or room(cores)
        options.work.mkdir(parents=True, exist_ok=True)
        study = Study(
            runs=runs, archive=options.archive, work=options.work.absolute(), jobs=jobs, threads=max(1, cores // jobs),
            keep=options.keep, commit=commit_of(SCRIPT.parent),
        )  # fmt: skip
        status = study.go()
    except (ConfigError, DataError, ArchiveError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.archive.exists() and options.archive.stat().st_size > LARGEST:
        print(f"{options.archive} is larger than {LARGEST // 2**20} MiB; begin another one with --archive", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
