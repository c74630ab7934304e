"""What can go wrong in a run, checked before it: `train_semi.py --config mine.json --check`.

Nothing is written. Each check prints a line: ok, note (training works, but read this), or FAIL.
"""

import hashlib
import os
import shlex
import shutil
import sys
import textwrap
from collections import defaultdict
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Callable, Sequence

import numpy as np
import torch
from accelerate import Accelerator

from ..config import IGNORE_INDEX, Config, share_of_process
from ..data.images import check_contrast, is_scene, read_header, read_image
from ..data.lists import find_duplicates
from ..data.loader import prefetch
from ..data.masks import check_palettes_of, read_pair
from ..data.progress import progress
from ..data.sources import NO_EVALUATION_LABEL, PART_NAMES, PARTS, Sources, describe_two_kinds, is_rare
from ..errors import ConfigError, DataError, join_first, plural
from ..evaluation.pictures import spread
from ..method.checks import check_batch_norm
from .cost import Cost, measure_cost
from .interrupts import describe_out_of_memory
from .first_checks import holds_a_run
from .machine import this_machine, total_memory_gib
from .run import build_training

NAMED = 5  # files named one by one
MOSTLY_IGNORED = 0.5  # of the pixels of labelled images: more is no border
SAMPLE = 200  # unlabelled images that are opened
MODELS = 4  # exported ones: teacher and student, last and best
WIDTH, INDENT = 118, 21  # of a line, and of the text in it


class Report:
    """Prints each finding as soon as it is there; `failed` holds the topics of those that stop a run."""

    def __init__(self) -> None:
        self.failed: list[str] = []

    def add(self, level: str, topic: str, text: str) -> None:
        """level: ok, note or FAIL."""
        whole = {"subsequent_indent": " " * INDENT, "break_long_words": False, "break_on_hyphens": False}
        print(textwrap.fill(f"  {level:6}{topic:13}{text}", WIDTH, **whole), flush=True)
        self.failed += [topic] if level == "FAIL" else []


def preflight(config: Config, sources: Sources, folder: Path, accelerator: Accelerator, command: Sequence[str]) -> int:
    """Checks the run of a folder and estimates its cost; 0 if it can start, else 1.

    command: the arguments of train_semi.py without --check, for the line that starts it.
    """
    if accelerator.num_processes > 1:
        raise ConfigError("--check works in one process; run it as python train_semi.py --config ... --check")
    print(f"{shlex.join(command)}: {config.method.title}\n", flush=True)
    report = Report()
    counts = check_pairs(sources, config, report)
    check_classes(config, sources, counts, report)
    check_overlap(sources, report)
    if config.method.teacher != "none":
        sparse = check_sparse(counts["labeled"], config, report)
        check_unlabeled(sources, config, report, sparse)
    processes = most_processes(this_machine().gpus, partial(share_of_process, config))
    if not report.failed and (cost := check_steps(config, sources, folder, accelerator, processes, report)):
        check_time(config, sources, cost, processes, report)
        check_disk(config, folder, cost, report)
    if holds_a_run(folder):
        report.add("note", "folder", f"{folder} holds a run already; add --resume to go on with it, or give another run.output")
    if report.failed:
        print(f"\nNot ready: {', '.join(report.failed)}.")
        return 1
    print(f"\nReady. Start it with:\n\n  {launch_line(processes, command)}")
    return 0


# ---- the data


def read_all(read: Callable[[Any], Any], rows: Sequence[Any], what: str) -> tuple[list[Any], list[str]]:
    """What `read` returns for each row, and the messages of those it fails for."""
    failures: list[str] = []

    def attempt(row: Any) -> Any:
        try:
            return read(row)
        except DataError as error:
            failures.append(str(error))

    results = list(prefetch(attempt, progress(rows, what), os.cpu_count() or 1))
    return [result for result in results if result is not None], sorted(failures)


def check_pairs(sources: Sources, config: Config, report: Report) -> dict[str, np.ndarray]:
    """Opens every image with a mask; returns how many pixels of each id each of them has, (images, 256) by part."""
    odd: list[str] = []

    def count_ids(row: dict[str, Any]) -> np.ndarray:
        image, mask = read_pair(row, config.data, len(sources.classes))
        check_contrast(image, row["image"])
        if part := "" if is_scene(row["image"]) else read_header(row["image"]).part:
            odd.append(f"{row['image']['path']} {part}")
        return np.bincount(mask.ravel(), minlength=IGNORE_INDEX + 1)

    counts = {}
    for part in ("labeled", "validation"):
        word = PART_NAMES[part]
        good, bad = read_all(count_ids, getattr(sources, part), f"{word} images")
        counts[part] = np.array(good).reshape(len(good), IGNORE_INDEX + 1)
        pairs = plural(len(good + bad), f"{word} image")
        if bad or not good:
            reason = join_first(bad, NAMED) or f"data.{part} names none"
            report.add("FAIL", word, f"{len(bad)} of {pairs} cannot be used: {reason}")
        else:
            report.add("ok", word, f"{pairs} with masks: all readable, as large as their masks, ids in range")
    try:
        check_palettes_of((row["mask"] for part in counts for row in getattr(sources, part)), config.data)
    except DataError as error:
        report.add("FAIL", "masks", str(error))
    if odd:
        report.add("note", "images", f"not all is read of {plural(len(odd), 'TIFF')}, of the first, {min(odd)}")
    return counts


def check_classes(config: Config, sources: Sources, counts: dict[str, np.ndarray], report: Report) -> None:
    """Which classes have no pixels, or few; counts: see `check_pairs`."""
    names = sources.classes
    labeled, held_out = (counts[part][:, : len(names)] for part in ("labeled", "validation"))
    pixels, images = labeled.sum(axis=0), (labeled > 0).sum(axis=0)
    if not held_out.any():
        report.add("FAIL", "classes", NO_EVALUATION_LABEL)
    if not pixels[1:].any():
        report.add("FAIL", "classes", "the labels show nothing but class 0; check data.ignore_index and data.id_map")
        return
    if remark := describe_two_kinds(counts["labeled"], names):
        report.add("note", "classes", remark)
    share = pixels / counts["labeled"].sum()
    few = [
        f"{name} ({share[index]:.2%} of the pixels, {plural(int(images[index]), 'image')})"
        for index, name in enumerate(names)
        if pixels[index] and is_rare(images[index], share[index], len(labeled))
    ]
    repair = "data.repeat_rare=0.5 or method.class_weights"
    findings = {
        "no labelled pixel shows {}; it will not be learned": [name for name, count in zip(names, pixels) if not count],
        f"few labels: {{}}; more of them help most, else {repair}": few,
        "no evaluation image shows {}; its IoU is left out of the mean unless it is predicted":
            [name for name, count in zip(names, held_out.sum(axis=0)) if not count],
    }  # fmt: skip
    for text, found in findings.items():
        if found:
            report.add("note", "classes", text.format(join_first(found)))
    if not any(findings.values()):
        report.add("ok", "classes", f"{len(names)}, all with labelled and evaluation pixels")


def check_overlap(sources: Sources, report: Report) -> None:
    """The same picture in two sets, under whatever name; equal paths were refused before."""
    part_of: dict[str, str] = {}
    by_content: dict[str, list[str]] = defaultdict(list)  # of images that a dataset holds in itself
    for part in (part for part in PARTS if len(getattr(sources, part))):
        for row in getattr(sources, part).select_columns(["image", "id"]):
            held = row["image"]["bytes"]
            name = row["image"]["path"] if held is None else f"{row['id']} of the {PART_NAMES[part]}"
            if not is_scene(row["image"]):
                part_of[name] = part
            if held is not None:
                by_content[hashlib.sha256(held).hexdigest()].append(name)
    groups = [*find_duplicates(part_of), *by_content.values()]
    shared = [group for group in groups if len({part_of[path] for path in group}) > 1]
    tested = [group for group in shared if "validation" in {part_of[path] for path in group}]
    if tested:
        pairs = join_first([" = ".join(group[:3]) for group in tested], NAMED)
        report.add("FAIL", "overlap", f"{plural(len(tested), 'evaluation image')} also trained on under another name: {pairs}")
    elif shared:
        found = f"{plural(len(shared), 'labelled image')} also in the pool, by content, such as {shared[0][-1]}"
        report.add("note", "overlap", found)
    else:
        report.add("ok", "overlap", "no image is in two sets, neither by name nor by content")


def check_sparse(labeled: np.ndarray, config: Config, report: Report) -> int:
    """How many labelled images have ignored pixels and serve as unlabelled ones too; labeled: see `check_pairs`."""
    ignored, pixels = labeled[:, IGNORE_INDEX], max(1, labeled.sum())
    count, share = int((ignored > 0).sum()), ignored.sum() / pixels
    found = f"{plural(count, 'labelled image')} with ignored pixels ({share:.0%} of all their pixels)"
    if config.method.ignored_as_unlabeled:
        report.add("ok" if count else "note", "sparse labels", f"{found} in the pool of unlabelled ones too")
    elif share > MOSTLY_IGNORED:
        report.add("note", "sparse labels", f"{found}; method.ignored_as_unlabeled=true gives those pixels pseudo labels")
    return count if config.method.ignored_as_unlabeled else 0


def check_unlabeled(sources: Sources, config: Config, report: Report, sparse: int = 0) -> None:
    """Opens a sample of the unlabelled images; training replaces what it cannot read."""
    pool, levels = sources.unlabeled, config.data.levels
    places = spread(len(pool), SAMPLE)
    good, bad = read_all(lambda place: read_image(pool[place]["image"], levels).size, places, "unlabelled images")
    opened = f"{len(places)} of {plural(len(pool), 'unlabelled image')} opened"
    if not places and sparse:
        report.add("ok", "unlabelled", f"none but the {plural(sparse, 'labelled image')} with ignored pixels")
    elif not good:
        reason = join_first(bad, NAMED) or "data.unlabeled names none; method.teacher=none trains on labels alone"
        report.add("FAIL", "unlabelled", f"no unlabelled image can be used: {reason}")
    elif bad:
        unreadable = f"{len(bad)} cannot be read; training replaces them: {join_first(bad, NAMED)}"
        report.add("note", "unlabelled", f"{opened}, {unreadable}")
    else:
        report.add("ok", "unlabelled", f"{opened}, all readable")


# ---- the machine


def check_steps(
    config: Config, sources: Sources, folder: Path, accelerator: Accelerator, processes: int, report: Report
) -> Cost | None:
    """Trains a few steps with the share of one of so many processes; None if they fail."""
    # in one process batch norms have its share alone, of which they need two images
    sharing = most_processes(processes, partial(check_batch_norm, config))
    try:
        training = build_training(config, sources, folder, accelerator)
        for note in training.notes:
            report.add("note", "config", note)
        cost = measure_cost(training, sharing)
    except (ConfigError, DataError) as error:
        return report.add("FAIL", "steps", str(error))
    except torch.OutOfMemoryError as error:
        return report.add("FAIL", "memory", describe_out_of_memory(error))
    device = accelerator.device
    times = f"{cost.seconds:.2f} s each, {cost.waiting:.0%} of it waiting for data"
    report.add("ok", "steps", f"{cost.steps} trained on {device.type}: {times}")
    if cost.waiting > 0.2:
        raised = f"raise data.workers from {config.data.workers}, or make the photos smaller"
        report.add("note", "steps", f"the loader is too slow: {raised}")
    if sharing < processes:
        share = f"measured with the share of one of {sharing} processes, not {processes}"
        report.add("note", "steps", f"{share}: batch norm needs two images in one process; the run takes less")
    total, name = total_memory_gib(device), torch.cuda.get_device_name(device) if device.type == "cuda" else "memory"
    level = "note" if cost.memory_gib > 0.9 * total else "ok"
    report.add(level, "memory", f"{cost.memory_gib:.1f} of {total:.0f} GiB of {name} at the peak")
    return cost


def check_time(config: Config, sources: Sources, cost: Cost, processes: int, report: Report) -> None:
    steps, validation = config.schedule.steps, len(sources.validation)
    images, evaluations = min(config.evaluation.limit or validation, validation), -(-steps // config.evaluation.every)
    training, testing = steps * cost.seconds, images * evaluations * cost.evaluation_seconds / processes
    share = testing / (training + testing)
    about = "at most" if config.method.burn_in else "about"  # the steps of a burn-in cost less than those measured
    evaluated = f"{plural(evaluations, 'evaluation')} of {plural(images, 'image')}"
    text = f"{about} {duration(training + testing)} for {steps} steps and {evaluated}"
    if share > 0.25:
        text += f"; the evaluations take {share:.0%} of it: raise evaluation.every, or set evaluation.limit"
    report.add("note" if share > 0.25 else "ok", "time", text)


def duration(seconds: float) -> str:
    """'40 seconds', '12 minutes', '5.5 hours'."""
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def check_disk(config: Config, folder: Path, cost: Cost, report: Report) -> None:
    """Whether checkpoints, one more while it is written, and the exported models have room."""
    wanted = (config.run.keep + 1) * cost.state_bytes + MODELS * cost.network_bytes
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    text = f"{folder} will take {wanted / 2**30:.1f} GiB, {free / 2**30:.0f} GiB are free"
    if not os.access(place, os.W_OK):
        report.add("FAIL", "disk", f"{place} cannot be written to; give another folder with run.output=...")
    elif free < wanted:
        report.add("FAIL", "disk", f"{text}; make room, give another folder with run.output=..., or lower run.keep")
    else:
        report.add("ok", "disk", text)


def most_processes(most: int, check: Callable[[int], object]) -> int:
    """The most processes, at most so many, for which `check` raises no `ConfigError`."""
    for processes in range(most, 1, -1):
        with suppress(ConfigError):
            check(processes)
            return processes
    return 1


def launch_line(processes: int, command: Sequence[str]) -> str:
    """The command that starts the run on this machine; after `s4former check` it needs no clone of the repository."""
    installed = sys.argv[0].startswith("s4former ")
    if processes == 1:
        return shlex.join([*(["s4former", "train"] if installed else ["python", "train_semi.py"]), *command])
    script = ["--module", "train_semi"] if installed else ["train_semi.py"]
    return shlex.join(["accelerate", "launch", "--num_processes", str(processes), "--multi_gpu", *script, *command])
