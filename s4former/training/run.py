"""A run: what it holds, and how it is built."""

import json
import shutil
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from threading import Thread
from typing import Any, Callable, Iterator, Sequence

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..config import Config, Model, to_dict
from ..data.batches import StepDataset, ValidationSet
from ..data.device_colour import colour_on_device
from ..data.held_out import HeldOut, split
from ..data.loader import copy_batch, step_loader
from ..data.sources import Sources
from ..evaluation.inference import Setting
from ..evaluation.model_choice import is_run
from ..files import recover_replaced_folders, write_text
from ..method.batch import Batch
from ..method.checks import check_batch_norm, check_network, shuffle_grid
from ..method.student import Student
from ..networks.adapters import compile_each, compile_network, forward_logits
from ..networks.build import build_network
from ..networks.encoder_weights import describe_normalization, normalization
from ..networks.low_rank import restrict_training
from ..networks.start_from import start_from
from ..randomness import Stream, torch_seed
from .engine import Teacher, build_teacher, prepare_student
from .interrupts import FiniteCheck
from .pseudo_quality import PseudoLabelCounts


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
    steps: StepDataset
    validation: ValidationSet
    pseudo_counts: PseudoLabelCounts
    notes: list[str]
    held_out: HeldOut | None = None
    finite: FiniteCheck = field(default_factory=FiniteCheck)
    step: int = 0  # optimizer steps that are done
    seconds: float = 0.0  # of training, evaluation left out
    replaced: int = 0  # unlabelled images that could not be read
    best: dict[str, dict[str, Any]] = field(default_factory=dict)  # scores and step by role
    scores: dict[str, dict[str, Any]] = field(default_factory=dict)  # of the last evaluation by role
    evaluated_at: int = 0  # its step
    push: Thread | None = None  # the last upload to the Hub that was begun, by the main process
    changes: list[str] = field(default_factory=list)  # of config and lists, when the run was resumed

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The bare models by role, the one to use first."""
        student = {"student": self.accelerator.unwrap_model(self.student).network}
        return student if self.teacher is None else {"teacher": self.teacher.network, **student}

    @property
    def pseudo_labeler(self) -> tuple[str, float | Tensor] | None:
        """The role that gives the pseudo labels and its threshold, or one for each class (K,); None = none alone does."""
        if self.config.method.teacher == "none" or self.config.method.algorithm == "psmt":
            return None
        thresholds = self.accelerator.unwrap_model(self.student).thresholds
        return next(iter(self.networks)), self.config.method.threshold if thresholds is None else thresholds.current()

    def images_until(self, step: int) -> int:
        """How many images so many steps train on; a burn-in has only labelled ones."""
        batch, method = self.config.run.batch, self.config.method
        with_unlabeled = max(0, step - method.burn_in) if method.teacher != "none" else 0
        return step * batch.labeled + with_unlabeled * batch.unlabeled

    @property
    def evaluation_due(self) -> bool:
        """Whether the step that the run is at has to be evaluated and was not yet."""
        last = self.step == self.config.schedule.steps
        return (last or self.step % self.config.evaluation.every == 0) and self.step not in (0, self.evaluated_at)

    @property
    def evaluation_precision(self) -> str:
        """Of an evaluation at the step that the run is at: the last one as evaluate.py, those before as the training."""
        last, trained = self.step == self.config.schedule.steps, self.accelerator.mixed_precision
        return self.config.evaluation.precision if last else trained.replace("no", "float32")

    def batches(self) -> Iterator[Batch]:
        """The batches of the steps that are left, uint8 on the host."""
        pin, workers = self.accelerator.device.type == "cuda", self.config.data.workers
        return step_loader(self.steps, self.step, self.config.schedule.steps, workers=workers, pin_memory=pin)

    @cached_property
    def constants(self) -> list[Tensor]:
        """Mean and deviation (3, 1, 1) on the device; made anew they would wait for the step before."""
        return [torch.tensor(values, device=self.accelerator.device)[:, None, None] for values in (self.setting.mean, self.setting.std)]

    @cached_property
    def copy_stream(self) -> torch.cuda.Stream | None:
        return torch.cuda.Stream(self.accelerator.device) if self.accelerator.device.type == "cuda" else None

    def to_device(self, batch: Batch) -> Batch:
        """A batch of the loader, coloured and normalised, where the student is."""
        batch = copy_batch(batch, self.accelerator.device, self.copy_stream)
        return colour_on_device(batch, self.config.method).on(self.accelerator.device, *self.constants)


def build_model(model: Model, classes: Sequence[str], crop: tuple[int, int]) -> tuple[nn.Module, list[str]]:
    """The network of a config with what of it is trained, and a line for the log where it starts from another one."""
    if model.start_from:
        network, *notes = start_from(model, classes)
    else:
        network, notes = build_network(model, id2label=dict(enumerate(classes)), crop=crop), []
    restrict_training(network, model)
    return network, notes


def build_training(config: Config, sources: Sources, folder: Path, accelerator: Accelerator) -> Training:
    """Builds a run at step 0; same config, same weights. `ConfigError` if anything about the network does not fit."""
    torch.manual_seed(torch_seed(config.run.seed, Stream.INITIALIZATION))
    sources, held_out = split(config, sources)
    network, notes = build_model(config.model, sources.classes, config.data.crop)
    mean, std = normalization(config.model)
    notes = [*sources.notes, *notes, *describe_normalization(config.model)]
    if config.schedule.floor >= config.optimizer.lr:
        notes.append(
            f"schedule.floor = {config.schedule.floor:g} is not below optimizer.lr = {config.optimizer.lr:g}: the"
            " learning rate of the encoder stays as it is; set a smaller floor for it to fall"
        )
    network.to(accelerator.device)
    with accelerator.autocast():
        check_network(config, network)
    student = Student(network, config.method)
    teacher = build_teacher(student) if config.method.teacher == "ema" else None
    if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
        student = nn.SyncBatchNorm.convert_sync_batchnorm(student)
    else:
        check_batch_norm(config, accelerator.num_processes)
    if config.run.compile:
        compile_each(student.auxiliary)
        for each in (student.network, *(teacher.networks if teacher is not None else [])):
            compile_network(each)
    prepared, optimizer = prepare_student(accelerator, student, config.optimizer)
    crop, device = config.data.crop, accelerator.device
    setting = Setting(evaluation=config.evaluation, crop=crop, mean=mean, std=std, device=device)
    steps = StepDataset(
        config, sources, shuffle_grid(config, network), accelerator.process_index, accelerator.num_processes,
        device_colour=device.type == "cuda",
    )  # fmt: skip
    return Training(
        config=config, sources=sources, folder=folder, accelerator=accelerator, student=prepared, teacher=teacher,
        optimizer=optimizer, setting=setting, steps=steps, held_out=held_out, notes=notes,
        validation=ValidationSet(config, sources, config.evaluation.limit),
        pseudo_counts=PseudoLabelCounts(sources.classes, device, config.method.burn_in),
    )  # fmt: skip


def prepare_folder(training: Training) -> None:
    """Writes the config into the folder of a run, and removes or mends what a killed one left behind."""
    if training.accelerator.is_main_process:
        folder = training.folder
        recover_replaced_folders(folder)
        left = [*folder.glob(".pushing-*")]
        if training.step == 0 and (folder / "log.jsonl").is_file() and is_run(folder):  # it had no checkpoint
            left += [folder / name for name in ("teacher", "student", "best-teacher", "best-student", "panels")]
            for name in ("log.jsonl", "confusion.json", "image_counts.json"):
                (folder / name).unlink(missing_ok=True)
        for path in left:
            shutil.rmtree(path, ignore_errors=True)
        write_text(folder / "config.json", json.dumps(to_dict(training.config), indent=2) + "\n")
    training.accelerator.wait_for_everyone()


@contextmanager
def eval_mode(networks: dict[str, nn.Module]) -> Iterator[dict[str, Callable[[Tensor], Tensor]]]:
    """The networks as functions from images to logits, in eval mode as long as the context lasts.

    Never compiled: images of every size would each want a graph of their own.
    """
    modes = {name: network.training for name, network in networks.items()}
    try:
        with torch.compiler.set_stance("force_eager"):
            yield {name: partial(forward_logits, network.eval()) for name, network in networks.items()}
    finally:
        for name, network in networks.items():
            network.train(modes[name])
