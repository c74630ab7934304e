"""A run: what it holds, how it is built, and its state on disk. What comes out of it is results.py's.

    runs/NAME/config.json       the resolved config
              log.jsonl         everything that was said in numbers
              checkpoints/      to go on from
"""

import resource
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Callable, Iterator

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..config import Config, to_dict
from ..data.batches import StepDataset, ValidationSet
from ..data.sources import Sources
from ..evaluation.inference import Setting
from ..method.batch import Batch
from ..method.checks import check_batch_norm, check_network, shuffle_grid
from ..method.student import Student
from ..networks.adapters import compile_encoder, freeze_encoder, full_size_logits
from ..networks.build import build_network
from ..networks.encoder_weights import normalization
from ..networks.start_from import start_from
from ..randomness import Stream, torch_seed
from . import checkpoint
from .engine import Finiteness, Teacher, build_optimizer
from .pseudo_quality import Tally


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

    def images_until(self, step: int) -> int:
        """How many images so many steps train on; a burn-in has only labelled ones."""
        batch, method = self.config.run.batch, self.config.method
        with_unlabeled = max(0, step - method.burn_in) if method.teacher != "none" else 0
        return step * batch.labeled + with_unlabeled * batch.unlabeled

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
    check_network(config, network)
    teacher = Teacher(network).to(accelerator.device) if config.method.teacher == "ema" else None
    student = Student(network, config.method)
    if config.run.compile:
        for each in (network, *([teacher.network] if teacher is not None else [])):
            compile_encoder(each)
    if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
        student = nn.SyncBatchNorm.convert_sync_batchnorm(student)
    else:
        check_batch_norm(config, accelerator.num_processes)
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
        steps=StepDataset(config, sources, grid, accelerator.process_index, accelerator.num_processes),
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


# ---- reading and cost


@contextmanager
def reading(networks: dict[str, nn.Module]) -> Iterator[dict[str, Callable[[Tensor], Tensor]]]:
    """The networks as functions from images to full-size logits, in eval mode as long as the context lasts.

    Never compiled: images of every size would each want a graph of their own.
    """
    modes = {name: network.training for name, network in networks.items()}
    try:
        with torch.compiler.set_stance("force_eager"):
            yield {name: partial(full_size_logits, network.eval()) for name, network in networks.items()}
    finally:
        for name, network in networks.items():
            network.train(modes[name])


def peak_memory_gib(device: torch.device) -> float:
    """Of the GPU's allocator, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
