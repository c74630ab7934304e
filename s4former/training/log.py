"""The log of a run: lines on the screen, lines in log.jsonl, and the numbers for the user's trackers."""

import json
import sys
import time
from typing import Sequence

import torch
from accelerate.utils import gather_object
from torch import Tensor
from tqdm import tqdm

from ..config import flatten, to_dict
from ..files import write_text
from ..method.batch import Batch
from ..method.step import BRANCHES
from ..report.run import read_log
from .pseudo_quality import warning
from .run import Training
from .schedules import learning_rate
from .trackers import Trackers


BAR = "{desc}{percentage:3.0f}%|{bar:6}| {n_fmt}/{total_fmt} [{remaining} left{postfix}]"  # with its figures 80 columns


class RunLog:
    """The log of a run, written by the main process; on the others every call is silent.

    On a terminal there is a progress bar with lines above it, elsewhere (a file, a batch system) lines alone.
    """

    def __init__(self, training: Training):
        self.training, self.main = training, training.accelerator.is_main_process
        self.steps, self.seconds, self.waited = 0, 0.0, 0.0  # since the speed was last logged
        self.unread: list[tuple[int, str]] = []  # step and reason of images that this process replaced and did not tell yet
        if self.main:
            path = training.folder / "log.jsonl"
            # without what a killed run logged after the checkpoint that is resumed from, which comes again
            again = ("calibration", *(("evaluation/", "cost") if training.evaluation_due else ()))
            last = training.step
            kept = [e for e in read_log(path) if e["step"] < last or e["step"] == last and not e["kind"].startswith(again)]
            write_text(path, "".join(json.dumps(entry) + "\n" for entry in kept))
            self.file = open(path, "a", buffering=1)
        steps, shown = training.config.schedule.steps, self.main and sys.stderr.isatty()
        bar = {"disable": not shown, "dynamic_ncols": True, "smoothing": 0.1, "bar_format": BAR}
        self.bar = tqdm(total=steps, initial=training.step, **bar)
        if self.main:
            self.trackers = Trackers(training.accelerator, training.folder, flatten(to_dict(training.config)), self.say)

    def say(self, text: str) -> None:
        """A line for the reader, above the bar."""
        if self.main:
            self.bar.write(text, file=sys.stderr) if not self.bar.disable else print(text, file=sys.stderr, flush=True)

    def show_phase(self, name: str, refresh: bool = True) -> None:
        """Writes before the bar what the run does other than training on both sets of images."""
        self.bar.set_description_str(name and f"{name} ", refresh)

    def record(self, kind: str, values: dict) -> None:
        """A line of JSON at the step the run is at, and the numbers among the values for the trackers."""
        step = self.training.step
        if self.main:
            self.file.write(json.dumps({"kind": kind, "step": step, "time": round(time.time(), 3), **values}) + "\n")
            flat = flatten(values, f"{kind}/", "/")
            self.trackers.log({name: value for name, value in flat.items() if type(value) in (int, float)}, step)

    def count_step(self, rounds: Sequence[Batch], seconds: float, waited: float, joint: bool = True) -> None:
        """Adds the time of a step and the part of it spent waiting for data; logs images that could not be read, where `joint`
        those of all processes, which then meet.
        """
        training = self.training
        training.seconds += seconds
        self.show_phase("burn-in" if training.step <= training.config.method.burn_in else "", refresh=False)
        self.bar.update()
        self.steps, self.seconds, self.waited = self.steps + 1, self.seconds + seconds, self.waited + waited
        self.unread += [(training.step, reason) for batch in rounds for reason in batch.replaced]
        found, self.unread = (gather_object(self.unread), []) if joint else ([], self.unread)
        for step, reason in found:
            training.replaced += 1
            self.say(f"step {step}: replaced an unlabelled image, the {training.replaced}. of this run: {reason}")
            self.record("replaced", {"reason": reason, "total": training.replaced})

    def progress(self, values: dict[str, float]) -> None:
        """The terms of a step, and the speed and the pseudo labels since the last call."""
        training, steps = self.training, self.training.config.schedule.steps
        images = training.images_until(training.step) - training.images_until(training.step - self.steps)
        left = round(self.seconds / self.steps * (steps - training.step), 1)
        speed, waiting = round(images / self.seconds, 2), round(self.waited / self.seconds, 4)
        self.steps, self.seconds, self.waited = 0, 0.0, 0.0
        self.record("train", {**values, "images_per_second": speed, "waiting": waiting, "seconds_left": left})
        shown = [f"{name.removeprefix('loss/')} {value:.3f}" for name, value in values.items() if name.startswith("loss/")]
        confident = [f"confident {values['confident']:.0%}"] if "confident" in values else []
        shown += [*confident, f"{speed:.1f} images/s", f"waiting {waiting:.0%}"]
        if self.bar.disable:
            left = tqdm.format_interval(left + 0.5)
            self.say("  ".join([f"step {training.step}/{steps}", *shown, f"{left} left"]))
        else:
            self.bar.set_postfix_str(", ".join([f"loss {values['loss/total']:.3f}", *confident, f"{speed:.1f} img/s"]))
        report = training.pseudo_counts.compute(training.step, training.accelerator.reduce)
        if report:
            self.record("teacher", report)
            if missing := training.pseudo_counts.newly_missing(training.step, steps):
                text = warning(missing, steps, training.config.method)
                self.say(f"step {training.step}: {text}")
                self.record("missed", {"classes": missing, "warning": text})

    def close(self) -> None:
        if self.main:
            self.trackers.close()
            self.file.close()
        self.bar.close()


def read_terms(training: Training, terms: dict[str, Tensor]) -> dict[str, float]:
    """The loss terms by name, averaged over the student branches and the processes, and the learning rate; waits for the device.

    One reduction, to be called by all processes. `confident` is the share of all their valid pixels.
    `NonFiniteLoss` if a term was not finite, at this step or before.
    """
    training.finite.raise_if_not_finite()
    shown = {"loss/total": terms["total"], "loss/supervised": terms["supervised"]}
    for name in ("auxiliary", "consistency", "contrast", training.config.method.regularizer):
        branches = [value for key, value in terms.items() if key in (name, *(name + branch for branch in BRANCHES))]
        if branches:
            shown[f"loss/{name}"] = sum(branches) / len(branches)
    shown["gradient"] = terms["gradient"]
    counts = training.pseudo_counts.latest if "confident" in terms else None  # a burn-in has none
    values = torch.stack([value.float() for value in (*shown.values(), *(() if counts is None else counts))])
    values = training.accelerator.reduce(values, reduction="mean").tolist()
    result = dict(zip(shown, values))
    if counts is not None:
        result["confident"] = values[-2] / max(values[-1], 1)
    config = training.config  # not the first group's rate, which may be the head's or that of a lower block
    return result | {"learning_rate": learning_rate(config.optimizer.lr, training.step - 1, config.schedule, config.restart_at)}
