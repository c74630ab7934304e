"""A run and its folder: what is built, saved, evaluated, exported and reported.

    runs/NAME/config.json       the resolved config
              log.jsonl         everything that was said in numbers
              checkpoints/      to go on from
              teacher/ student/ the last models, best-teacher/ best-student/ those chosen on the evaluation images
              results.json      the outcome, with everything needed to repeat it
              report.html       all of it to look at, written at every evaluation; panels/ and confusion.json are its sources
              predictions.png   a few evaluation images
"""

import json
import resource
import shlex
import shutil
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Callable, Iterator

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from . import checkpoint, panels
from .config import Config, to_dict
from .data import Batch, Steps, ValidationSet
from .engine import Finiteness, Teacher, build_optimizer
from .export import Provenance, export, push
from .inference import PSEUDO, Setting, evaluate_networks, predict
from .metrics import ConfusionMatrix
from .models import build_network, compile_encoder, freeze_encoder, logits_at
from .pictures import contact_sheet
from .randomness import Stream, torch_seed
from .reading import DataError
from .report.page import write_report
from .runlog import RunLog
from .sources import Sources
from .start import start_from
from .student import Student, check_fit, shuffle_grid
from .teaching import Tally, rightness
from .weights import normalization

PACKAGES = ("torch", "transformers", "accelerate", "datasets", "pillow", "numpy")


@dataclass(kw_only=True)
class Training:
    """Everything a run holds. `student` and `optimizer` are prepared by Accelerate; `networks` are the bare models."""

    config: Config
    sources: Sources
    folder: Path
    accelerator: Accelerator
    student: nn.Module
    teacher: Teacher | None
    optimizer: torch.optim.Optimizer
    setting: Setting
    steps: Steps
    validation: ValidationSet
    finiteness: Finiteness
    tally: Tally
    notes: list[str]
    step: int = 0  # optimizer steps that are done
    seconds: float = 0.0  # of training, evaluation left out
    replaced: int = 0  # unlabelled images that could not be read
    best: dict[str, dict[str, Any]] = field(default_factory=dict)  # scores and step by role
    scores: dict[str, dict[str, Any]] = field(default_factory=dict)  # of the last evaluation by role
    evaluated_at: int = 0  # its step
    changes: list[str] = field(default_factory=list)  # what was not the same any more when the run was resumed

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The bare models by role, the one to use first."""
        student = {"student": self.accelerator.unwrap_model(self.student).network}
        return student if self.teacher is None else {"teacher": self.teacher.network, **student}

    @property
    def pseudo(self) -> tuple[str, float | Tensor] | None:
        """The role that gives the pseudo labels and its threshold, or one for each class (K,); None = none does."""
        if self.config.method.teacher == "none":
            return None
        thresholds = self.accelerator.unwrap_model(self.student).thresholds
        return next(iter(self.networks)), self.config.method.threshold if thresholds is None else thresholds.current()

    @property
    def images_per_step(self) -> int:
        batch = self.config.run.batch
        return batch.labeled + (batch.unlabeled if self.config.method.teacher != "none" else 0)

    def to_device(self, batch: Batch) -> Batch:
        """A batch of the loader, normalised, where the student is."""
        constants = (torch.tensor(values, device=self.accelerator.device) for values in (self.setting.mean, self.setting.std))
        return batch.on(self.accelerator.device, *(values[:, None, None] for values in constants))


def build_training(config: Config, sources: Sources, folder: Path, accelerator: Accelerator) -> Training:
    """Builds a run at step 0; same config, same weights.

    Raises:
        ConfigError: anything about the network that does not fit.
    """
    torch.manual_seed(torch_seed(config.run.seed, Stream.INITIALIZATION))
    notes = list(sources.notes)
    if config.model.start_from:
        network, told = start_from(config.model, sources.classes)
        notes.append(told)
    else:
        network = build_network(config.model, id2label=dict(enumerate(sources.classes)), crop=config.data.crop)
    freeze_encoder(network, config.model.freeze)
    mean, std = normalization(config.model)
    notes += check_fit(config, network)
    teacher = Teacher(network).to(accelerator.device) if config.method.teacher == "ema" else None
    student = Student(network, config.method)
    if config.run.compile:
        for each in (network, *([teacher.network] if teacher is not None else [])):
            compile_encoder(each)
    if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
        student = nn.SyncBatchNorm.convert_sync_batchnorm(student)
    prepared, optimizer = accelerator.prepare(student, build_optimizer(student, config.optimizer))
    grid = shuffle_grid(config, network)
    return Training(
        config=config,
        sources=sources,
        folder=folder,
        accelerator=accelerator,
        student=prepared,
        teacher=teacher,
        optimizer=optimizer,
        setting=Setting(
            evaluation=config.evaluation, crop=config.data.crop, mean=mean, std=std, device=accelerator.device,
            levels=config.data.levels,
        ),  # fmt: skip
        steps=Steps(config, sources, grid, accelerator.process_index, accelerator.num_processes),
        validation=ValidationSet(config, sources, config.evaluation.limit),
        finiteness=Finiteness(accelerator.device),
        tally=Tally(sources.classes, accelerator.device, config.method.burn_in),
        notes=notes,
    )


# ---- the state on disk


def save(training: Training) -> None:
    """Writes a checkpoint, unless a loss was not finite: that never reaches the disk."""
    training.finiteness.raise_if_bad()
    accelerator, teacher = training.accelerator, training.teacher
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        state = {
            "config": to_dict(training.config),
            "step": training.step,
            "seconds": training.seconds,
            "replaced": training.replaced,
            "best": training.best,
            "scores": training.scores,
            "evaluated_at": training.evaluated_at,
            "tally": training.tally.state_dict(),
            "changes": training.changes,
            "lists": training.sources.lists,
            "student": accelerator.unwrap_model(training.student).state_dict(),
            "teacher": None if teacher is None else teacher.state_dict(),
            "optimizer": training.optimizer.state_dict(),
            "scaler": None if accelerator.scaler is None else accelerator.scaler.state_dict(),
        }
        checkpoint.save(training.folder / "checkpoints", training.step, state, training.config.run.keep)
    accelerator.wait_for_everyone()


def restore(training: Training, state: dict[str, Any], changes: list[str]) -> None:
    """Puts a run where a checkpoint left it; `changes` are those of the config, and files may have come or gone too."""
    training.accelerator.unwrap_model(training.student).load_state_dict(state["student"])
    if training.teacher is not None:
        training.teacher.load_state_dict(state["teacher"])
    rates = [group["base"] for group in training.optimizer.param_groups]
    training.optimizer.load_state_dict(state["optimizer"])
    for group, rate in zip(training.optimizer.param_groups, rates):
        group["base"] = rate  # optimizer.lr may be another one
    if training.accelerator.scaler is not None and state["scaler"] is not None:
        training.accelerator.scaler.load_state_dict(state["scaler"])
    training.tally.load_state_dict(state.get("tally", {}))  # a checkpoint of before has none
    for name in ("step", "seconds", "replaced", "best", "scores", "evaluated_at"):
        setattr(training, name, state[name])
    changes = [*changes, *changed_lists(state.get("lists", {}), training.sources.lists)]
    training.changes = [*state.get("changes", []), *(f"from step {training.step}: {change}" for change in changes)]
    training.notes += [f"changed {change}" for change in training.changes]


LIST_NAMES = {"labeled": "labelled", "unlabeled": "unlabelled", "validation": "evaluation"}


def changed_lists(before: dict[str, dict[str, Any]], now: dict[str, dict[str, Any]]) -> list[str]:
    """A sentence for each list that has other ids than it had."""
    return [
        f"the {LIST_NAMES[part]} list has {now[part]['images']} images and had {before[part]['images']} (other ids, by their"
        " SHA-256), so the run will not end as an uninterrupted one would"
        for part in before
        if before[part] != now[part]
    ]


# ---- scores and pictures


@contextmanager
def reading(networks: dict[str, nn.Module]) -> Iterator[dict[str, Callable[[Tensor], Tensor]]]:
    """The networks as functions from images to full-size logits, in eval mode as long as the context lasts.

    Never compiled: images of every size would each want a graph of their own.
    """
    modes = {name: network.training for name, network in networks.items()}
    try:
        with torch.compiler.set_stance("force_eager"):
            yield {name: partial(logits_at, network.eval()) for name, network in networks.items()}
    finally:
        for name, network in networks.items():
            network.train(modes[name])


def evaluate(training: Training, log: RunLog) -> None:
    """Scores teacher and student in one pass over the evaluation images, and exports whichever was never better."""
    training.finiteness.raise_if_bad()
    accelerator, classes = training.accelerator, training.validation.classes
    with reading(training.networks) as readers, accelerator.autocast():
        matrices = evaluate_networks(
            readers,
            training.validation,
            training.setting,
            num_classes=len(classes),
            pseudo=training.pseudo,
            process_index=accelerator.process_index,
            num_processes=accelerator.num_processes,
        )
    total = partial(accelerator.reduce, reduction="sum")
    matrices = {name: matrix.reduce(total) for name, matrix in matrices.items()}
    training.scores = {role: matrices[role].as_dict(classes) for role in training.networks}
    if any(score["mean_iou"] is None for score in training.scores.values()):
        raise DataError("no evaluation image has a labelled pixel; check data.validation, data.ignore_index and data.id_map")
    training.evaluated_at = training.step
    for role, score in training.scores.items():
        log.record(f"evaluation/{role}", training.step, score)
        if role not in training.best or score["mean_iou"] > training.best[role]["mean_iou"]:
            training.best[role] = {**score, "step": training.step}
            write_model(training, role, f"best-{role}", chosen=True)
    if PSEUDO in matrices:
        everything = int(matrices[next(iter(training.networks))].counts.sum())
        log.record("evaluation/pseudo", training.step, rightness(matrices[PSEUDO], everything, classes))
    if accelerator.is_main_process:
        write_counts(training, matrices)
        draw_panels(training)
    log.record("cost", training.step, cost(training))
    if accelerator.is_main_process:
        write_report(training.folder)
    told = (f"{role} mIoU {100 * score['mean_iou']:.2f}" for role, score in training.scores.items())
    log.say(f"step {training.step}: " + ", ".join(told))


def write_counts(training: Training, matrices: dict[str, ConfusionMatrix]) -> None:
    """The confusion matrices of the last evaluation, rows truth, columns prediction, in pixels."""
    counts = {name: matrix.counts.tolist() for name, matrix in matrices.items()}
    content = {"step": training.step, "classes": training.validation.classes, "counts": counts}
    checkpoint.write_text(training.folder / "confusion.json", json.dumps(content) + "\n")


def draw_panels(training: Training) -> None:
    """Small pictures of fixed images: what the networks say of some evaluation images, and pseudo labels of the pool."""
    with reading(training.networks) as readers:
        panels.evaluation_panels(training.folder, readers, training.validation, training.setting)
        if training.pseudo:
            role, threshold = training.pseudo
            pool, classes = training.sources.unlabeled, training.sources.classes
            panels.unlabeled_panels(
                training.folder, training.step, readers[role], threshold, pool, training.setting, classes
            )


def cost(training: Training) -> dict[str, float]:
    """What the run has taken so far."""
    return {
        "hours": round(training.seconds / 3600, 4),
        "images_per_second": round(training.images_per_step * training.step / max(training.seconds, 1e-9), 2),
        "peak_memory_gib": round(peak_memory_gib(training.accelerator.device), 2),
        "replaced_images": training.replaced,
    }


def draw_predictions(training: Training, rows: int = 6) -> None:
    """A picture of evaluation images, evenly spaced in the list: image, truth, and what every network says."""
    validation, sheet = training.validation, []
    with reading(training.networks) as readers:
        for index in sorted({round(i) for i in np.linspace(0, len(validation) - 1, rows)}):
            item = validation[index]
            maps = [predict(reader, item.image, training.setting).cpu().numpy() for reader in readers.values()]
            sheet.append([item.image.permute(1, 2, 0).numpy(), item.labels.numpy(), *maps])
    heading = f"{training.config.method.title} after {training.step} steps"
    contact_sheet(sheet, ["image", "truth", *training.networks], validation.classes, heading).save(
        training.folder / "predictions.png"
    )


# ---- models for others


def write_model(training: Training, role: str, name: str, *, chosen: bool = False, address: str = "") -> None:
    """Exports the model of a role into the folder `name` of the run; `address` is where it will be on the Hub."""
    if not training.accelerator.is_main_process:
        return
    provenance = Provenance(
        method=training.config.method.title,
        role=role,
        step=training.step,
        scores=training.scores.get(role) if training.evaluated_at == training.step else None,
        chosen=chosen,
        lists=training.sources.lists,
        command=command_line(),
        versions=versions(),
        address=address,
    )
    setting = training.setting
    export(
        training.networks[role],
        training.folder / name,
        config=training.config,
        mean=setting.mean,
        std=setting.std,
        provenance=provenance,
    )


def push_model(training: Training, log: RunLog) -> None:
    """Uploads the model to use to the Hub; a failure is a warning."""
    role, repository = next(iter(training.networks)), training.config.run.push_to_hub
    write_model(training, role, ".pushing", address=repository if "/" in repository else "")
    if training.accelerator.is_main_process:
        message = f"{training.config.method.title} {role}, step {training.step}"
        complaint = push(training.folder / ".pushing", repository, message)
        shutil.rmtree(training.folder / ".pushing", ignore_errors=True)
        where = f"{repository} at step {training.step}"
        log.say(f"pushed to {where}" if complaint is None else f"warning: could not push to {where}: {complaint}")


def description(training: Training) -> dict[str, Any]:
    """What is trained on what, where and with which programs: all that a report has to know before there are results."""
    accelerator = training.accelerator
    on_gpu = accelerator.device.type == "cuda"
    name = torch.cuda.get_device_name(accelerator.device) if on_gpu else accelerator.device.type
    return {
        "method": training.config.method.title,
        "command": command_line(),
        "device": f"{accelerator.num_processes} x {name}",
        "precision": accelerator.mixed_precision,
        "parameters": sum(parameter.numel() for parameter in training.networks["student"].parameters()),
        "classes": training.sources.classes,
        "lists": training.sources.lists,
        "notes": training.notes,
        "versions": versions(),
    }


def finish(training: Training, log: RunLog) -> None:
    """Leaves the last models, results.json and the picture, and says where they are."""
    config = training.config
    for role in training.networks:
        write_model(training, role, role)
    if training.accelerator.is_main_process:
        results = {
            "method": config.method.title,
            "seed": config.run.seed,
            "steps": training.step,
            "last": training.scores,
            "best": training.best,
            **cost(training),
            "changes": training.changes,
            "lists": training.sources.lists,
            "command": command_line(),
            "versions": versions(),
            "config": to_dict(config),
        }
        checkpoint.write_text(training.folder / "results.json", json.dumps(results, indent=2) + "\n")
        draw_predictions(training)
        write_report(training.folder)
    if config.run.push_to_hub:
        push_model(training, log)
    for role, score in training.scores.items():
        best = training.best[role]
        log.say(
            f"{role:8s}last {100 * score['mean_iou']:.2f} mIoU, best {100 * best['mean_iou']:.2f} at step {best['step']}"
            " (chosen on the evaluation images)"
        )
    log.say(f"results {training.folder / 'results.json'}, report {training.folder / 'report.html'}")
    log.say(f"evaluate with: python evaluate.py --checkpoint {training.folder}")


def command_line() -> str:
    """What the user typed, without --resume: the command that repeats the run."""
    return "python " + shlex.join(argument for argument in sys.argv if argument != "--resume")


def versions() -> dict[str, str]:
    return {"python": sys.version.split()[0], **{package: version(package) for package in PACKAGES}}


def peak_memory_gib(device: torch.device) -> float:
    """Of the GPU's allocator, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
