"""The state of a run in its checkpoints: what is saved, how it is resumed, and the models of an unfinished run."""

import os
import shutil
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Iterator

import torch
from accelerate import Accelerator

from ..config import NUMERICS, Config, flatten, from_dict, to_dict, without_taken_out
from ..data.sources import PART_NAMES, PARTS, Sources
from ..errors import ConfigError, DataError, UserError, describe_error
from ..evaluation.model_choice import ROLES
from ..method.thresholds import build_thresholds
from ..networks.encoder_weights import normalization
from ..networks.export import save_model
from . import checkpoint
from .interrupts import NonFiniteLoss, describe_out_of_memory
from .run import Training, build_model

# Keys that may differ when a run is resumed: they change what is reported, not what is trained.
FREE = ("run.output", "run.log_every", "run.checkpoint_every", "run.keep", "run.trackers", "run.push", "evaluation.every",
        "evaluation.batch", "evaluation.both_modes", "data.validation", "data.shapes.validation", "data.colours", "data.workers",
        "data.cache")  # fmt: skip
# Paths that may differ where the classes and the lists of training images, by their SHA-256, are the same.
DATA_PATHS = ("data.root", "data.labeled", "data.unlabeled", "data.classes_file")
# And those that change what an evaluation measures, or repair a loss that is not finite, a device that is too small or a mask;
# results.json lists the change. All of these are beginnings of keys.
MEASUREMENT = ("data.id_map", "data.ignore_index", "data.palette", "evaluation")
REPAIRING = (
    "optimizer.lr", "optimizer.clip_norm", "run.mixed_precision", "run.deterministic", "run.batch.rounds", "model.activation_checkpointing",
    *MEASUREMENT,
)  # fmt: skip
COUNTERS = ("step", "seconds", "replaced", "best", "scores", "evaluated_at")  # of `Training`, saved as they are


def state_dict(training: Training) -> dict[str, Any]:
    """What a checkpoint holds: tensors and plain values."""
    accelerator, teacher = training.accelerator, training.teacher
    return {
        "config": to_dict(training.config),
        "numerics": NUMERICS,
        **{name: getattr(training, name) for name in COUNTERS},
        "tally": training.pseudo_counts.state_dict(),
        "changes": training.changes,
        "lists": training.sources.lists,
        "classes": list(training.sources.classes),
        "student": accelerator.unwrap_model(training.student).state_dict(),
        "teacher": None if teacher is None else teacher.state_dict(),
        "optimizer": training.optimizer.state_dict(),
        "scaler": None if accelerator.scaler is None else accelerator.scaler.state_dict(),
    }


def save(training: Training) -> None:
    """Writes a checkpoint, on all processes together; a loss that is not finite raises instead of being saved."""
    training.finite.raise_if_not_finite()
    training.pseudo_counts.join(training.accelerator.reduce, training.accelerator.is_main_process)
    if training.accelerator.is_main_process:
        checkpoint.save(training.folder / "checkpoints", training.step, state_dict(training), training.config.run.keep)
    training.accelerator.wait_for_everyone()


def read_state(run: Path, say: bool = True) -> dict[str, Any]:
    """The newest undamaged checkpoint of a run; newer ones are told on stderr, `DamageError` if all are damaged."""
    state, refused = checkpoint.load_newest(run / "checkpoints")
    for message in refused if say else []:
        print(message, file=sys.stderr)
    # older versions saved a student compiled by accelerate launch under the names of its wrapper
    state["student"] = {name.removeprefix("_orig_mod."): tensor for name, tensor in state["student"].items()}
    return state


def find_state(folder: Path, config: Config, sources: Sources, accelerator: Accelerator) -> dict[str, Any]:
    """As `read_state`; a `ConfigError` if the checkpoint belongs to another config."""
    state = read_state(folder, accelerator.is_main_process)
    changed = changed_keys(state, config, sources)
    if not all(key.startswith(REPAIRING) for key in changed):
        raise ConfigError(
            f"cannot resume {folder} with another config: {'; '.join(changed.values())}; use the command it was started"
            f" with, or another run.output ({', '.join(REPAIRING)} may differ)"
        )
    return state


def changed_keys(state: dict[str, Any], config: Config, sources: Sources) -> dict[str, str]:
    """'KEY was X and is Y' by key, for keys that are not free to differ."""
    # a key that the version of the checkpoint did not have yet was what is now its default
    old, new = flatten(to_dict(Config())) | flatten(without_taken_out(state["config"])), flatten(to_dict(config))
    lists, free = state.get("lists", {}), FREE
    same = state.get("classes") == list(sources.classes) and all(lists[part] == sources.lists[part] for part in PARTS[:2])
    if same and config.data.source != "hub":  # a dataset without names counts its rows, so other images may have the same ids
        free += DATA_PATHS
    return {
        key: f"{key} was {old.get(key)!r} and is {new.get(key)!r}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and not key.startswith(free)
    }


def restore(training: Training, state: dict[str, Any]) -> None:
    """Sets a run to the state of a checkpoint, and notes which keys and which lists of images have changed since."""
    training.accelerator.unwrap_model(training.student).load_state_dict(state["student"])
    if training.teacher is not None:
        training.teacher.load_state_dict(state["teacher"])
    rates = [group["base"] for group in training.optimizer.param_groups]
    training.optimizer.load_state_dict(state["optimizer"])
    for group, rate in zip(training.optimizer.param_groups, rates):
        group["base"] = rate  # optimizer.lr may be another one
    if training.accelerator.scaler is not None and state["scaler"] is not None:
        training.accelerator.scaler.load_state_dict(state["scaler"])
    training.pseudo_counts.load_state_dict(state.get("tally", {}))  # absent from older checkpoints, as are lists and changes
    training.pseudo_counts.join(lambda counts: counts, training.accelerator.is_main_process)
    for name in COUNTERS:
        setattr(training, name, state[name])
    changed, lists = changed_keys(state, training.config, training.sources), training.sources.lists
    changes = [*changed.values(), *other_digits(state, lists)]
    if any(key.startswith(MEASUREMENT) for key in changed) or state.get("lists", lists)["validation"] != lists["validation"]:
        training.scores, training.best, training.evaluated_at = {}, {}, 0
        changes.append("scores of before are of another measurement, so the best model is chosen among those from here on")
    for role, best in list(training.best.items()):
        card = training.folder / f"best-{role}" / "README.md"
        if card.is_file() and f" after {best['step']} steps " not in card.read_text():
            del training.best[role]
            if training.evaluation_due and f" after {training.step} steps " in card.read_text():
                continue  # it was killed within the evaluation of this step, which comes again
            training.notes.append(f"best-{role} is not of step {best['step']} any more, so the best {role} is chosen from here on")
    training.changes = [*state.get("changes", []), *(f"from step {training.step}: {change}" for change in changes)]
    training.notes += [f"changed {change}" for change in training.changes]


def other_digits(state: dict[str, Any], now: dict[str, dict[str, Any]]) -> list[str]:
    """Which lists of images, and whether the code, are others than those of a checkpoint."""
    before, numerics = state.get("lists", {}), state.get("numerics", "of before 6")
    others = [
        f"the {PART_NAMES[part]} list has {now[part]['images']} images and had {before[part]['images']} (other ids, by their SHA-256)"
        for part in before
        if before[part] != now[part]
    ]
    if numerics != NUMERICS:
        others.append(f"NUMERICS of the code was {numerics} and is {NUMERICS} (config.py says what that changes)")
    return [f"{each}, so the run will not end as an uninterrupted one would" for each in others]


@contextmanager
def explained_errors(training: Training) -> Iterator[None]:
    """Turns an error that ends training into a `UserError` that says how to resume; bad data are met between two steps,
    and the steps done until then are saved.
    """
    try:
        try:
            yield
        except DataError:
            if training.step and training.accelerator.num_processes == 1:  # other processes would not join the save
                save(training)
            raise
    except torch.OutOfMemoryError as error:
        raise UserError(f"{describe_out_of_memory(error)}. {resume_hint(training.folder)}") from error
    except (ConfigError, DataError, NonFiniteLoss, OSError) as error:
        raise UserError(f"{describe_error(error, training.folder)}. {resume_hint(training.folder)}") from error


def resume_hint(folder: Path) -> str:
    """What is saved of a run that had to stop, and how it is resumed."""
    saved = checkpoint.complete(folder / "checkpoints")
    if not saved:
        return "No checkpoint was due yet; once that is mended, the same command begins again"
    return (
        f"Nothing is lost up to step {int(saved[-1].name[5:])}, whose checkpoint is in {folder}; once that is mended, the same"
        " command with --resume goes on from there"
    )


# ---- the models of a run that has not ended


def export_newest(run: Path) -> Path:
    """Writes teacher/ and student/ into the newest undamaged checkpoint of a run; returns the folder of the checkpoint.

    What was written before is taken as it is. The folder goes with its checkpoint, when training deletes that.
    `ConfigError` for a version that did not save the names of its classes, `DamageError` if all are damaged.
    """
    newest = checkpoint.complete(run / "checkpoints")[-1]
    if any((newest / role).is_dir() for role in ROLES):
        return newest
    state = read_state(run)
    if not state.get("classes"):
        raise ConfigError(f"the checkpoints of {run} do not say what their classes are called; go on with --resume until it ends")
    config, classes = from_dict(without_taken_out(state["config"], even_in_use=True)), state["classes"]
    folder = newest.with_name(f"step-{state['step']:08d}")
    network, _ = build_model(replace(config.model, pretrained=False), classes, config.data.crop)
    (mean, std), thresholds = normalization(config.model), build_thresholds(config.method, len(classes))
    if thresholds is not None:
        thresholds.load_state_dict({name: state["student"][f"thresholds.{name}"] for name in thresholds.state_dict()})
    current = thresholds.current().tolist() if thresholds is not None else ()
    for role in ("student", "teacher"):
        if state[role] is None or (folder / role).is_dir():
            continue
        own = {name: tensor for name, tensor in state[role].items() if name.startswith("network.")}
        network.load_state_dict({name.removeprefix("network."): tensor for name, tensor in own.items()})
        beside = folder / f".writing-{role}-{os.getpid()}"  # other processes may write it as well
        save_model(network, beside, config=config, mean=mean, std=std, thresholds=current)
        try:
            beside.rename(folder / role)
        except OSError:
            if not (folder / role).is_dir():
                raise
            shutil.rmtree(beside)
    return folder
