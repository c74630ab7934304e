"""Trains a segmentation model from labelled and unlabelled images.

    accelerate launch train_semi.py --config configs/demo.json [--resume] [section.key=value ...]
    accelerate launch train_semi.py --config configs/voc_92.json --config configs/methods/unimatch_ema.json
    python train_semi.py --config configs/demo.json --check     # looks at everything, trains three steps, writes nothing
    python train_semi.py --help-config method                   # the keys of a section, or without its name of all
"""

import argparse
import json
import sys
import time
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Iterator

import torch
from accelerate import Accelerator
from transformers.utils.logging import disable_progress_bar

from s4former.config import Config, help_config, load, share_of_process, to_dict
from s4former.data.loader import step_loader
from s4former.data.sources import Sources, check_masks, load_sources
from s4former.errors import ConfigError, DataError, describe_error
from s4former.files import recover_replaced_folders, write_text
from s4former.method.batch import Batch
from s4former.method.checks import drop_ncr_for_two_classes
from s4former.method.step import BRANCHES
from s4former.networks.export import check_repository
from s4former.training import checkpoint, pseudo_quality
from s4former.training.engine import NonFiniteLoss, Signals, out_of_memory, precision, update
from s4former.training.log import RunLog, check_trackers
from s4former.training.preflight import preflight
from s4former.training.results import description, evaluate, finish, push_model
from s4former.training.run import Training, build_training, restore, save

# Keys that may differ when a run is resumed: they change what is reported, not what is trained.
FREE = ("run.output", "run.log_every", "run.checkpoint_every", "run.keep", "run.trackers", "run.push", "evaluation.", "data.workers", "data.cache")  # fmt: skip
# And those that mend a loss that is not finite, or a device that is too small; results.json tells of the change.
MENDING = ("optimizer.lr", "optimizer.clip_norm", "run.mixed_precision", "run.batch.rounds", "model.activation_checkpointing")


class Stopped(RuntimeError):
    """A run that cannot go on; the message says why, what is kept, and how it goes on later."""


def main() -> int:
    disable_progress_bar()  # of transformers, one for every file it writes
    arguments = read_arguments()
    try:
        config = load(arguments.config, arguments.overrides)
        check_repository(config.run.push_to_hub)
        check_trackers(config.run.trackers)
        folder = Path(config.run.output or Path("runs") / "-".join(Path(file).stem for file in arguments.config))
        accelerator = Accelerator(
            cpu=not torch.accelerator.is_available(),  # unasked, several CPU processes would not know of each other
            mixed_precision=precision(config.run.mixed_precision),
            log_with=list(config.run.trackers) or None,
            project_dir=folder,
        )
        share_of_process(config, accelerator.num_processes)
        sources = load_sources(config.data)
        config, remarks = drop_ncr_for_two_classes(config, len(sources.classes))
        sources = replace(sources, notes=(*sources.notes, *remarks))
        if arguments.check:
            return check(arguments, config, sources, folder, accelerator)
        sources = replace(sources, notes=(*sources.notes, *check_masks(sources, config.data)))
        state, changes = find_checkpoint(folder, config, accelerator) if arguments.resume else (None, [])
        refuse_to_overwrite(folder, arguments.resume)
        training = build_training(config, sources, folder, accelerator)
        if state is not None:
            restore(training, state, changes)
        if accelerator.is_main_process:
            folder.mkdir(parents=True, exist_ok=True)
            recover_replaced_folders(folder)
            write_text(folder / "config.json", json.dumps(to_dict(config), indent=2) + "\n")
        accelerator.wait_for_everyone()
        accelerator.init_trackers("s4former", config={key: str(value) for key, value in flat(to_dict(config)).items()})
        status = train(training)
        accelerator.end_training()
    except (ConfigError, DataError, Stopped, checkpoint.DamageError, OSError) as error:
        print(f"\n{Path(sys.argv[0]).name}: {describe_error(error)}", file=sys.stderr)
        return 1
    return status


class HelpConfig(argparse.Action):
    """Prints the keys of a section of the config, or of all, and ends the program, as --help does."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option_string: Any = None) -> None:
        try:
            print(help_config(values))
        except ConfigError as error:
            parser.error(str(error))
        parser.exit()


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--config", required=True, action="append", metavar="FILE",
        help="JSON file; what it leaves out is the paper's setting. Given again, the later file goes over the earlier one",
    )  # fmt: skip
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint of the same command")
    parser.add_argument("--check", action="store_true", help="look at data, memory, time and disk in a minute, and write nothing")
    parser.add_argument(
        "--help-config", nargs="?", const="", metavar="SECTION", action=HelpConfig,
        help="print every key of the config, or of one section, with default, range and meaning, and exit",
    )  # fmt: skip
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="set one key of the config")
    return parser.parse_intermixed_args()


def check(arguments: argparse.Namespace, config: Config, sources: Sources, folder: Path, accelerator: Accelerator) -> int:
    """Says whether the run can start, and what it will cost; 0 if so, else 1."""
    if accelerator.num_processes > 1:
        raise ConfigError("--check works in one process; run it as python train_semi.py --config ... --check")
    print(f"{' '.join(arguments.config)}: {config.method.title}\n", flush=True)
    command = [word for file in arguments.config for word in ("--config", file)] + arguments.overrides
    return preflight(config, sources, folder, accelerator, command)


def train(training: Training) -> int:
    """From the step the run is at to its last one (then 0), or to a signal (then the status a shell gives it)."""
    config, accelerator = training.config, training.accelerator
    last = config.schedule.steps
    log = RunLog(training.folder, accelerator, last, training.step)
    introduce(training, log)
    pin = accelerator.device.type == "cuda"
    batches = step_loader(training.steps, training.step, last, workers=config.data.workers, pin_memory=pin)
    try:
        with closing(batches), closing(log):
            return run_steps(training, batches, log)
    except (ConfigError, DataError, NonFiniteLoss, OSError, torch.OutOfMemoryError) as error:
        raise Stopped(f"{told(error, training)}. {checkpoint.way_on(training.folder)}") from error


def told(error: Exception, training: Training) -> str:
    """What the user reads of an error that ends a run on its way."""
    if isinstance(error, torch.OutOfMemoryError):
        return out_of_memory(error, training.config, training.accelerator.num_processes)
    return describe_error(error, training.folder)


def run_steps(training: Training, batches: Iterator[Batch], log: RunLog) -> int:
    """The loop; data that fail are met between two steps, and what has been done until then is saved."""
    try:
        return loop(training, batches, log)
    except DataError:
        if training.step and training.accelerator.num_processes == 1:  # others would not come to the meeting
            save(training)
        raise


def loop(training: Training, batches: Iterator[Batch], log: RunLog) -> int:
    """Step after step, and what is due after each."""
    config, accelerator = training.config, training.accelerator
    run, last = config.run, config.schedule.steps
    signals, speed = Signals(accelerator), Speed()
    if owes_an_evaluation(training):
        evaluate(training, log)
    first = training.step

    for step in range(first, last):
        started = time.perf_counter()
        rounds = [next(batches) for _ in range(run.batch.rounds)]
        waited = time.perf_counter() - started
        on_device = (training.to_device(batch) for batch in rounds)
        terms = update(accelerator, training.student, training.teacher, training.optimizer, on_device, step, config)
        training.tally.take(terms, run.batch.rounds)
        training.finiteness.watch(step, terms, scaled=accelerator.scaler is not None)
        training.step = done = step + 1

        due = done % run.log_every == 0 or done == last
        values = read_terms(training, terms) if due else {}  # the only place that waits for the device
        training.seconds += speed.add(time.perf_counter() - started, waited)
        tell_replaced(training, rounds, log)
        if due:
            images = training.images_until(done) - training.images_until(done - speed.steps)
            log.progress(done, values | speed.report(images, last - done))
            tell_teaching(training, log)
        elif step == first:  # a slow machine would otherwise be silent for minutes
            log.say(f"first step done in {time.perf_counter() - started:.1f} s; a line comes every {run.log_every} steps")
        stopping = signals.caught(may_synchronize=due)

        if (done % config.evaluation.every == 0 or done == last) and not stopping:
            evaluate(training, log)
        if done % run.checkpoint_every == 0 or done == last or stopping:
            save(training)
        if run.push_to_hub and run.push_every and done % run.push_every == 0 and done < last:
            push_model(training, log)
        if stopping and done < last:
            log.say(f"stopped by {signals.name} after step {done}, checkpoint written; the same command with --resume goes on")
            return 128 + signals.number

    if owes_an_evaluation(training):
        evaluate(training, log)
    finish(training, log)
    return 0


def owes_an_evaluation(training: Training) -> bool:
    """Whether the run stopped, or is about to end, between a step and its evaluation."""
    due = training.step % training.config.evaluation.every == 0 or training.step == training.config.schedule.steps
    return due and training.step > 0 and training.evaluated_at != training.step


def introduce(training: Training, log: RunLog) -> None:
    """What is about to happen, in two or three lines."""
    for note in training.notes:
        log.say(note)
    sources, accelerator = training.sources, training.accelerator
    log.say(
        f"{training.config.method.title}: {len(sources.labeled)} labelled, {len(sources.unlabeled)} unlabelled,"
        f" {len(training.validation)} evaluation images, {len(sources.classes)} classes;"
        f" {accelerator.num_processes} x {accelerator.device.type}, precision {accelerator.mixed_precision};"
        f" {training.folder}" + (f", from step {training.step}" if training.step else "")
    )
    log.record("start", training.step, description(training))


def read_terms(training: Training, terms: dict[str, torch.Tensor]) -> dict[str, float]:
    """The terms as a reader wants them: every loss once, the student branches averaged."""
    training.finiteness.raise_if_bad()
    shown = {"loss/total": terms["total"], "loss/supervised": terms["supervised"]}
    for name in ("auxiliary", "consistency", training.config.method.regularizer):
        branches = [value for key, value in terms.items() if key in (name, *(name + branch for branch in BRANCHES))]
        if branches:
            shown[f"loss/{name}"] = sum(branches) / len(branches)
    shown |= {name: terms[name] for name in ("confident", "gradient") if name in terms}
    rates = {"learning_rate": training.optimizer.param_groups[0]["lr"]}
    return {name: float(value) for name, value in shown.items()} | rates


def tell_teaching(training: Training, log: RunLog) -> None:
    """Of what the teacher has made pseudo labels since the last line, and a warning for classes that it leaves out."""
    step, steps = training.step, training.config.schedule.steps
    report = training.tally.report(step, partial(training.accelerator.reduce, reduction="sum"))
    if report:
        log.record("teacher", step, report)
        if missed := training.tally.missed(step, steps):
            sentence = pseudo_quality.warning(missed, pseudo_quality.patience(steps), training.config.method)
            log.say(f"step {step}: {sentence}")
            log.record("missed", step, {"classes": missed, "warning": sentence})


def tell_replaced(training: Training, rounds: list[Batch], log: RunLog) -> None:
    """Names every unlabelled image that could not be read."""
    for complaint in (complaint for batch in rounds for complaint in batch.replaced):
        training.replaced += 1
        log.say(f"step {training.step}: replaced an unlabelled image, the {training.replaced}. of this run: {complaint}")
        log.record("replaced", training.step, {"reason": complaint, "total": training.replaced})


@dataclass
class Speed:
    """Steps, seconds and seconds spent waiting for data since the last report."""

    steps: int = 0
    seconds: float = 0.0
    waited: float = 0.0

    def add(self, seconds: float, waited: float) -> float:
        self.steps, self.seconds, self.waited = self.steps + 1, self.seconds + seconds, self.waited + waited
        return seconds

    def report(self, images: int, steps_left: int) -> dict[str, float]:
        values = {
            "images_per_second": round(images / self.seconds, 2),
            "waiting": round(self.waited / self.seconds, 4),
            "seconds_left": round(self.seconds / self.steps * steps_left, 1),
        }
        self.steps, self.seconds, self.waited = 0, 0.0, 0.0
        return values


def find_checkpoint(folder: Path, config: Config, accelerator: Accelerator) -> tuple[dict[str, Any] | None, list[str]]:
    """The newest checkpoint of a run, or None if there is none yet, and what of its config has changed.

    Raises:
        ConfigError: it is of another config.
        DamageError: there are checkpoints, but none is whole.
    """
    state, refused = checkpoint.newest(folder / "checkpoints")
    for sentence in refused:
        if accelerator.is_main_process:
            print(sentence, file=sys.stderr)
    if state is None:
        return None, []
    # a key that the version of the checkpoint did not have yet was what is now its default
    before, after = flat(to_dict(Config())) | flat(state["config"]), flat(to_dict(config))
    changed = {
        key: f"{key} was {before.get(key)!r} and is {after.get(key)!r}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and not key.startswith(FREE)
    }
    if changed.keys() - set(MENDING):
        raise ConfigError(
            f"cannot resume {folder} with another config: {'; '.join(changed.values())}; use the command it was started"
            f" with, or another run.output ({', '.join(MENDING)} may differ)"
        )
    return state, list(changed.values())


def refuse_to_overwrite(folder: Path, resume: bool) -> None:
    if not resume and (checkpoint.complete(folder / "checkpoints") or (folder / "results.json").exists()):
        raise ConfigError(
            f"{folder} already holds a run; add --resume to go on with it, give another folder with run.output=...,"
            " or delete it"
        )


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections as one level of full keys."""
    result: dict[str, Any] = {}
    for key, value in tree.items():
        result |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return result


if __name__ == "__main__":
    sys.exit(main())
