"""Everything that can go wrong in a run, looked at beforehand: `train_semi.py --config mine.json --check`.

Nothing is written. What is said is a line for each check: ok, note (training works, but read this), or FAIL.
"""

import os
import shlex
import shutil
import textwrap
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Sequence

import numpy as np
import torch
from accelerate import Accelerator

from ..config import IGNORE_INDEX, Config, share_of_process
from ..data.duplicates import find_duplicates
from ..data.images import display_name, is_scene, read_image
from ..data.masks import read_pair
from ..data.sources import PART_NAMES, PARTS, Sources, is_rare
from ..errors import ConfigError, DataError, join_first, plural
from . import checkpoint
from .cost import Probe, probe
from .engine import out_of_memory
from .machine import Machine, this_machine
from .run import build_training

NAMED = 5  # files named one by one
SAMPLE = 200  # unlabelled images that are opened
MODELS = 4  # exported ones: teacher and student, last and best
WIDTH, INDENT = 118, 21  # of a line, and of the text in it


@dataclass
class Report:
    """Says each finding as soon as it is there, and remembers whether one was bad."""

    failed: list[str] = field(default_factory=list)

    def ok(self, topic: str, text: str) -> None:
        self.say("ok", topic, text)

    def note(self, topic: str, text: str) -> None:
        self.say("note", topic, text)

    def fail(self, topic: str, text: str) -> None:
        self.failed.append(topic)
        self.say("FAIL", topic, text)

    def say(self, level: str, topic: str, text: str) -> None:
        margin = " " * INDENT
        wide = textwrap.fill(
            text, WIDTH, initial_indent=margin, subsequent_indent=margin, break_long_words=False, break_on_hyphens=False
        )
        print(f"  {level:6}{topic:13}{wide[INDENT:]}", flush=True)


def preflight(config: Config, sources: Sources, folder: Path, accelerator: Accelerator, command: Sequence[str]) -> int:
    """Checks a run and says what it will cost; 0 if it can start, else 1.

    Args:
        folder: of the run.
        command: the arguments of train_semi.py without --check, for the line that starts it.
    """
    report, machine = Report(), this_machine()
    counts = check_pairs(sources, config, report)
    check_classes(config, sources, counts, report)
    check_overlap(sources, report)
    check_pool(sources, config, report)
    processes = fitting_processes(config, machine)
    found = None if report.failed else check_steps(config, sources, folder, accelerator, processes, report)
    if found is not None:
        check_time(config, sources, found, processes, report)
        check_disk(config, folder, found, report)
    if checkpoint.complete(folder / "checkpoints") or (folder / "results.json").exists():
        report.note("folder", f"{folder} holds a run already; add --resume to go on with it, or give another run.output")
    if report.failed:
        print(f"\nNot ready: {', '.join(report.failed)}.")
        return 1
    print(f"\nReady. Start it with:\n\n  {launch_line(machine, processes, command)}")
    return 0


# ---- the data


def check_pairs(sources: Sources, config: Config, report: Report) -> dict[str, np.ndarray]:
    """Opens every image with a mask; returns how many pixels of each id each of them has, (images, 256) by part."""

    def look(row: dict[str, Any]) -> np.ndarray | str:
        try:
            return np.bincount(read_pair(row, config.data, len(sources.classes))[1].ravel(), minlength=IGNORE_INDEX + 1)
        except DataError as error:
            return str(error)

    counts = {}
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for part in ("labeled", "validation"):
            results = list(threads.map(look, getattr(sources, part)))
            bad = [result for result in results if isinstance(result, str)]
            good = [result for result in results if not isinstance(result, str)]
            counts[part] = np.array(good).reshape(len(good), IGNORE_INDEX + 1)
            pairs = plural(len(results), f"{PART_NAMES[part]} image")
            if bad:
                more = f", and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
                report.fail(PART_NAMES[part], f"{len(bad)} of {pairs} cannot be used: {'; '.join(bad[:NAMED])}{more}")
            elif not good:
                report.fail(PART_NAMES[part], f"there are no {PART_NAMES[part]} images; see data.{part}")
            else:
                report.ok(PART_NAMES[part], f"{pairs} with masks: all readable, as large as their masks, ids in range")
    return counts


def check_classes(config: Config, sources: Sources, counts: dict[str, np.ndarray], report: Report) -> None:
    """Which classes have no pixels, or few."""
    number = len(sources.classes)
    labeled, held = (counts[part][:, :number] for part in ("labeled", "validation"))
    pixels, images = labeled.sum(axis=0), (labeled > 0).sum(axis=0)
    if not held.any():
        report.fail("classes", "no evaluation image has a labelled pixel; check data.ignore_index and data.id_map")
    if not pixels[1:].any():
        report.fail("classes", "the labels show nothing but class 0; check data.ignore_index and data.id_map")
        return
    share = pixels / counts["labeled"].sum()
    absent = [name for name, count in zip(sources.classes, pixels) if not count]
    few = [
        f"{name} ({share[index]:.2%} of the pixels, {plural(int(images[index]), 'image')})"
        for index, name in enumerate(sources.classes)
        if pixels[index] and is_rare(images[index], share[index], len(labeled))
    ]
    untested = [name for name, count in zip(sources.classes, held.sum(axis=0)) if not count]
    if absent:
        report.note("classes", f"no labelled pixel shows {join_first(absent)}; it will not be learned")
    if few:
        lower = "" if config.method.thresholds == "per_class" else " method.thresholds=per_class,"
        report.note("classes", f"few labels: {join_first(few)}; more of them help most. Otherwise: data.repeat_rare=0.5,{lower}"
            " method.class_weights")
    if untested:
        report.note("classes", f"no evaluation image shows {join_first(untested)}; its IoU is left out of the mean unless it is predicted")
    if not (absent or few or untested):
        report.ok("classes", f"{number}, all with labelled and evaluation pixels")


def check_overlap(sources: Sources, report: Report) -> None:
    """The same picture in two sets, under whatever name; equal paths were refused before."""
    part_of = {
        path: part for part in PARTS for path in paths_of(getattr(sources, part)) if not is_scene({"path": path, "bytes": None})
    }
    shared = [group for group in find_duplicates(part_of) if len({part_of[path] for path in group}) > 1]
    tested = [group for group in shared if "validation" in {part_of[path] for path in group}]
    if tested:
        pairs = "; ".join(" = ".join(group[:3]) for group in tested[:NAMED])
        report.fail("overlap", f"{plural(len(tested), 'evaluation image')} also trained on under another name: {pairs}")
    elif shared:
        report.note("overlap", f"{plural(len(shared), 'labelled image')} also in the pool, by content, such as {shared[0][-1]}")
    else:
        report.ok("overlap", "no image is in two sets, neither by name nor by content")


def paths_of(table: Any) -> list[str]:
    """The files of a table's images; those held in the dataset itself have none."""
    return [cell["path"] for cell in table["image"][:] if cell["bytes"] is None] if len(table) else []


def check_pool(sources: Sources, config: Config, report: Report) -> None:
    """Opens a sample of the unlabelled images; training replaces what it cannot read."""
    pool = sources.unlabeled
    if config.method.teacher == "none":
        return
    places = np.unique(np.linspace(0, len(pool) - 1, min(SAMPLE, len(pool))).astype(int)) if len(pool) else []

    def complaint(place: int) -> str | None:
        cell = pool[int(place)]["image"]
        try:
            read_image(cell, config.data.levels)
        except DataError:
            return display_name(cell)
        return None

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        bad = [name for name in threads.map(complaint, places) if name]
    looked = f"{len(places)} of {plural(len(pool), 'unlabelled image')} opened"
    if len(bad) == len(places):
        reason = "data.unlabeled names none; method.teacher=none trains on labels alone" if not bad else join_first(bad, NAMED)
        report.fail("unlabelled", f"no unlabelled image can be used: {reason}")
    elif bad:
        report.note("unlabelled", f"{looked}, {len(bad)} cannot be read; training replaces them: {join_first(bad, NAMED)}")
    else:
        report.ok("unlabelled", f"{looked}, all readable")


# ---- the machine


def check_steps(
    config: Config, sources: Sources, folder: Path, accelerator: Accelerator, processes: int, report: Report
) -> Probe | None:
    """Trains a few steps; None if they fail."""
    try:
        training = build_training(config, sources, folder, accelerator)
        for remark in training.notes:
            report.note("config", remark)
        found = probe(training, processes)
    except (ConfigError, DataError) as error:
        report.fail("steps", str(error))
        return None
    except torch.OutOfMemoryError as error:
        report.fail("memory", out_of_memory(error, config, processes))
        return None
    device = accelerator.device
    total, what = device_memory(device)
    busy = os.getloadavg()[0] - 1  # the check itself is one
    if device.type == "cpu" and busy > 0.5 * (os.cpu_count() or 1):
        report.note("steps", f"other programs ask for {busy:.0f} cores of {os.cpu_count()}; alone the run would be faster")
    report.ok("steps", f"{found.steps} trained on {device.type}: {found.seconds:.2f} s each, {found.waiting:.0%} of it waiting for data")
    if found.waiting > 0.2:
        report.note("steps", f"the loader is too slow: raise data.workers from {config.data.workers}, or make the photos smaller")
    say = report.note if found.memory_gib > 0.9 * total else report.ok
    say("memory", f"{found.memory_gib:.1f} of {total:.0f} GiB of {what} at the peak")
    return found


def device_memory(device: torch.device) -> tuple[float, str]:
    """In GiB, and what it is called."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory / 2**30, torch.cuda.get_device_name(device)
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, "memory"


def check_time(config: Config, sources: Sources, found: Probe, processes: int, report: Report) -> None:
    steps, every = config.schedule.steps, config.evaluation.every
    images = min(config.evaluation.limit or len(sources.validation), len(sources.validation))
    evaluations = -(-steps // every)
    training = steps * found.seconds
    testing = evaluations * images * found.evaluation_seconds / processes
    share = testing / (training + testing)
    about = "at most" if config.method.burn_in else "about"  # the steps of a burn-in cost less than those measured
    text = f"{about} {duration(training + testing)} for {steps} steps"
    text += f" and {plural(evaluations, 'evaluation')} of {plural(images, 'image')}"
    if share > 0.25:
        report.note("time", f"{text}; the evaluations take {share:.0%} of it: raise evaluation.every, or set evaluation.limit")
    else:
        report.ok("time", text)


def duration(seconds: float) -> str:
    """'40 seconds', '12 minutes', '5.5 hours'."""
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def check_disk(config: Config, folder: Path, found: Probe, report: Report) -> None:
    """Whether checkpoints, one more while it is written, and the exported models have room."""
    wanted = (config.run.keep + 1) * found.state_bytes + MODELS * found.network_bytes
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    text = f"{folder} will take {wanted / 2**30:.1f} GiB, {free / 2**30:.0f} GiB are free"
    if not os.access(place, os.W_OK):
        report.fail("disk", f"{place} cannot be written to; give another folder with run.output=...")
    elif free < wanted:
        report.fail("disk", f"{text}; make room, give another folder with run.output=..., or lower run.keep")
    else:
        report.ok("disk", text)


def fitting_processes(config: Config, machine: Machine) -> int:
    """The most processes, one for each GPU, that the batch can be shared among."""
    for processes in range(machine.gpus, 1, -1):
        try:
            share_of_process(config, processes)
        except ConfigError:
            continue
        return processes
    return 1


def launch_line(machine: Machine, processes: int, command: Sequence[str]) -> str:
    """The command that starts the run on this machine."""
    options = ["--num_processes", str(processes)]
    if processes > 1:
        options.append("--multi_gpu")
    if not machine.gpus:
        options += ["--num_cpu_threads_per_process", str(machine.cores)]
    return shlex.join(["accelerate", "launch", *options, "train_semi.py", *command])
