"""A grid of runs, several at a time, each archived as it ends.

    s4former study GRID.json --jobs 4
    s4former table --paired METHOD docs/measured/archive.jsonl.gz      compares the methods

    {"name": "parts", "config": ["configs/voc_local.json"], "overrides": ["schedule.steps=2200", "method.burn_in=1100",
     "data.labeled=seed{seed}/labeled_92.txt"], "draws": {"seed": [10, 11]},
     "methods": {"base": ["configs/methods/base.json"], "s4former": [], "no_pasa": ["method.pasa=none"]}}

Every method is run on every draw, all methods of the first draw first. A method is a list of config files and
section.key=value over what all share; {seed} and other names of the draw stand for their values, and run.seed is the seed.
The same command resumes after any stop. A run that the archive has is not run again: its key is the SHA-256 of its
config without paths and what has no influence on the numbers, the hashes of its image lists and weights, and NUMERICS.
"""

import argparse
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Sequence

from ..errors import at_least, reports_errors
from ..files import write_text
from ..report.run import read_log
from ..training.machine import available_cores, free_memory_gib
from .archive import append, identity, read_archive
from .grid import Run, expand_grid, read_grid

SCRIPT = Path(__file__).parent.parent.parent / "train_semi.py"
MEMORY, GPU_MEMORY = 2, 4  # GiB of one run, on the host and on a GPU
LARGEST = 5 * 2**20  # bytes of an archive that is kept under version control


def finished_record(run: Run, folder: Path, commit: str) -> dict[str, Any]:
    """The record of a run that has ended, from its folder; no path of this machine is in it."""
    results, images = (json.loads((folder / name).read_text()) for name in ("results.json", "image_counts.json"))
    log = read_log(folder / "log.jsonl")
    start = next(entry for entry in log if entry["kind"] == "start")
    train = [entry for entry in log if entry["kind"] == "train"]
    evaluations = [entry for entry in log if entry["kind"].startswith("evaluation/")]
    names = dict.fromkeys(name for entry in train for name in entry)
    names = [name for name in names if name.startswith("loss/") or name in ("step", "confident", "gradient")]
    return {
        **run.record,
        "commit": commit,
        "machine": {"device": start["device"], "precision": start["precision"], **start["versions"]},
        "seconds": round(3600 * results["hours"], 1),
        "images_per_second": results["images_per_second"],
        "peak_memory_gib": results["peak_memory_gib"],
        "last": round_numbers(results["last"]),
        "best": {role: round_numbers({key: best[key] for key in ("mean_iou", "step")}) for role, best in results["best"].items()},
        "train": {name: [round_numbers(entry.get(name)) for entry in train] for name in names},
        "evaluations": [round_numbers({key: entry[key] for key in entry if key != "time"}) for entry in evaluations],
        "images": images,
    }


def round_numbers(value: Any) -> Any:
    """Floats to five digits, in dicts too."""
    if isinstance(value, dict):
        return {name: round_numbers(inner) for name, inner in value.items()}
    return float(f"{value:.5g}") if isinstance(value, float) else value


def current_commit() -> str:
    """The commit that is checked out, with -dirty where a file differs from it; empty outside of a repository."""
    command = ["git", "-C", str(SCRIPT.parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except FileNotFoundError:  # no git here
        return ""


@dataclass
class Study:
    """Runs the runs, `max_jobs` at a time, each with `threads`."""

    archive: Path
    work: Path
    max_jobs: int
    threads: int
    keep: bool
    commit: str
    processes: set[subprocess.Popen] = field(default_factory=set)
    failed: list[Run] = field(default_factory=list)
    locked: list[Run] = field(default_factory=list)  # by another process, which runs them
    signal: int = 0

    def run_all(self, runs: Sequence[Run]) -> int:
        """Returns the exit status when every run is archived or has failed, or after a signal."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.stop)
        with ThreadPoolExecutor(self.max_jobs) as pool:
            for run in [pool.submit(self.run_one, run) for run in runs]:
                run.result()
        if self.signal:
            print(f"stopped by {signal.Signals(self.signal).name}; the same command resumes", flush=True)
            return 128 + self.signal
        for run in self.failed:
            log = Path(f"{self.folder(run)}.log")
            lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
            print(f"failed: {run.title}, see {log}: {lines[-1] if lines else 'it is empty'}", file=sys.stderr)
        for run in self.locked:
            print(f"left to the process that runs it already: {run.title}", file=sys.stderr)
        return 1 if self.failed else 0

    def stop(self, number: int, frame: object = None) -> None:
        """Begins no further run, and lets those that train save their state."""
        self.signal = self.signal or number
        for process in list(self.processes):
            process.send_signal(signal.SIGTERM)

    def folder(self, run: Run) -> Path:
        return self.work / run.key[:16]

    def run_one(self, run: Run) -> None:
        """Trains and archives a run, unless it is archived, or another process runs it."""
        if self.signal:
            return
        with open(f"{self.folder(run)}.lock", "a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.locked.append(run)
                return
            try:
                if not self.is_archived(run):
                    self.train_and_archive(run, lock.fileno())
            except BaseException:  # an archive that cannot be written, say, must not leave processes behind
                self.stop(signal.SIGTERM)
                raise

    def is_archived(self, run: Run) -> bool:
        """Whether the archive has the run; where that is under another name, a short record is added."""
        same = next((record for record in read_archive(self.archive) if record["key"] == run.key), None)
        if same and identity(same) != identity(run.record):
            append(self.archive, {**run.record, "same": True})
        return same is not None

    def train_and_archive(self, run: Run, lock: int) -> None:
        folder, started = self.folder(run), time.monotonic()
        ended = (folder / "results.json").exists()  # stopped between its end and its archiving
        status = 0 if ended else self.train(run, folder, lock)
        if status == 0:
            record = finished_record(run, folder, self.commit)
            append(self.archive, record)
            scores = ", ".join(f"{role} {100 * score['mean_iou']:.2f}" for role, score in record["last"].items())
            print(f"{run.title}: {scores}; {time.monotonic() - started:.0f} s", flush=True)
            if not self.keep:
                shutil.rmtree(folder, ignore_errors=True)
                for suffix in ("log", "json", "lock"):
                    Path(f"{folder}.{suffix}").unlink(missing_ok=True)
        elif not self.signal:
            print(f"{run.title}: failed with status {status}", flush=True)
            self.failed.append(run)

    def train(self, run: Run, folder: Path, lock: int) -> int:
        """The exit status of the process. It holds the lock too, which so outlives this one."""
        config = Path(f"{folder}.json")
        write_text(config, json.dumps(run.tree, indent=2) + "\n")
        command = [sys.executable, str(SCRIPT), "--config", str(config), f"run.output={folder}"]
        command += ["--resume"] if any(folder.glob("checkpoints/step-*")) else []
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads)}
        with open(f"{folder}.log", "ab") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[lock], env=environment)
        self.processes.add(process)
        if self.signal:  # it came since run_one began
            process.send_signal(signal.SIGTERM)
        status = process.wait()
        self.processes.discard(process)
        return status


def default_jobs(cores: int) -> int:
    """How many runs fit: a core and MEMORY GiB for each, and GPU_MEMORY GiB where there is a GPU."""
    import torch

    limits = [cores, int(free_memory_gib() // MEMORY)]
    if torch.cuda.is_available():
        limits.append(torch.cuda.mem_get_info()[0] // (GPU_MEMORY * 2**30))
    return max(1, min(limits))


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("s4former study", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("grid", type=Path, metavar="GRID", help="JSON file with name, config, overrides, draws and methods")
    add("--set", action="append", default=[], metavar="section.key=value",
        help="goes over the grid's overrides, such as data.root=FOLDER; may be given again")  # fmt: skip
    add("--archive", type=Path, default=Path("docs/measured/archive.jsonl.gz"), metavar="FILE",
        help="receives a record of each finished run (default: %(default)s)")  # fmt: skip
    add("--work", type=Path, default=Path("runs/study"), metavar="FOLDER",
        help="for the folders of the runs; two commands that share it run nothing twice (default: %(default)s)")  # fmt: skip
    add("--jobs", type=at_least(1), metavar="N", help="runs at a time (default: as many as cores and memory allow)")
    add("--keep", action="store_true", help="do not delete the folder of a run that has been archived")
    add("--dry-run", action="store_true", help="list the runs and which of them the archive has")
    options = parser.parse_args(arguments)
    return options


@reports_errors("s4former study")
def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    runs = expand_grid(read_grid(options.grid), options.set)
    archived = {record["key"] for record in read_archive(options.archive)}
    print(f"{len(runs)} runs, {sum(run.key in archived for run in runs)} of them in {options.archive}", flush=True)
    if options.dry_run:
        print("\n".join(f"{run.key[:16]}  {'done' if run.key in archived else 'to do'}  {run.title}" for run in runs))
        return 0
    cores = available_cores()
    jobs = options.jobs or default_jobs(cores)
    options.work.mkdir(parents=True, exist_ok=True)
    study = Study(options.archive, options.work.absolute(), jobs, max(1, cores // jobs), options.keep, current_commit())
    status = study.run_all(runs)
    if options.archive.exists() and options.archive.stat().st_size > LARGEST:
        print(f"{options.archive} is larger than {LARGEST // 2**20} MiB; begin another one with --archive", file=sys.stderr)
    return status
