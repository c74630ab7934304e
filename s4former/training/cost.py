"""A few real steps of a run, to know what it will cost: memory, seconds, and how much of them is waiting for data."""

import time
from contextlib import closing
from dataclasses import dataclass
from itertools import count
from typing import Any, Iterable, Iterator

import torch
from torch import Tensor

from ..data.batches import StepDataset, ValidationSet
from ..data.loader import step_loader
from ..evaluation.inference import evaluate_networks
from ..method.batch import Batch
from ..method.checks import shuffle_grid
from .engine import update
from .run import Training, peak_memory_gib, reading

MEASURED = 3  # steps that count, at least
PATIENCE = 30.0  # seconds for the steps before them, which start loader workers and fill what they prefetch


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What a few steps showed."""

    steps: int  # that were measured
    seconds: float  # of one of them, waiting for data included
    waiting: float  # the share of it spent waiting for data
    memory_gib: float  # peak: of the GPU's allocator, or of this process on a CPU
    evaluation_seconds: float  # of one image, both networks
    state_bytes: int  # of a checkpoint
    network_bytes: int  # of an exported model


def probe(training: Training, processes: int = 1) -> Probe:
    """Trains a few steps and evaluates a few images; the training cannot be used for anything else afterwards.

    Args:
        processes: among how many the global batch will be shared; this one takes the share of the first.

    Raises:
        DataError: a batch cannot be made.
        torch.OutOfMemoryError: it does not fit.
    """
    config, device = training.config, training.accelerator.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    network = training.accelerator.unwrap_model(training.student).network
    steps = StepDataset(config, training.sources, shuffle_grid(config, network), 0, processes)
    first = config.method.burn_in  # steps of a burn-in have no unlabelled images
    last = first + MEASURED * 1000  # further than it will come
    with closing(step_loader(steps, first, last, workers=config.data.workers, pin_memory=device.type == "cuda")) as batches:
        times = measured(training, batches)
    seconds, waited = (sum(column) / len(times) for column in zip(*times))
    return Probe(
        steps=len(times),
        seconds=seconds,
        waiting=waited / seconds,
        evaluation_seconds=evaluation_seconds(training),
        memory_gib=peak_memory_gib(device),
        state_bytes=state_bytes(training),
        network_bytes=size_of(network.state_dict().values()),
    )


def measured(training: Training, batches: Iterator[Batch]) -> list[tuple[float, float]]:
    """(seconds, seconds of waiting) of each step, once what the loader had ahead is used up."""
    config, started = training.config, time.perf_counter()
    ahead = 1 + 2 * config.data.workers // config.run.batch.rounds
    wanted = max(MEASURED, config.data.workers)  # workers deliver in bursts as long as there are workers
    times = []
    for step in count():
        if step >= ahead or time.perf_counter() - started > PATIENCE:
            times.append(one_step(training, batches, step))
        else:
            one_step(training, batches, step)
        if len(times) >= wanted or len(times) >= MEASURED and time.perf_counter() - started > 2 * PATIENCE:
            return times


def one_step(training: Training, batches: Iterator[Batch], step: int) -> tuple[float, float]:
    """As in training, but that the clock waits for the device."""
    config, accelerator = training.config, training.accelerator
    started = time.perf_counter()
    rounds = [next(batches) for _ in range(config.run.batch.rounds)]
    waited = time.perf_counter() - started
    on_device = (training.to_device(batch) for batch in rounds)
    # of the rate and the teacher: past a burn-in, whose steps cost less; a short run may have fewer steps than this
    step = min(config.method.burn_in + step, config.schedule.steps - 1)
    update(accelerator, training.student, training.teacher, training.optimizer, on_device, step, config)
    if accelerator.device.type == "cuda":
        torch.cuda.synchronize(accelerator.device)
    return time.perf_counter() - started, waited


def evaluation_seconds(training: Training) -> float:
    """Of one evaluation image through every network, measured over one batch of them."""
    images = ValidationSet(training.config, training.sources, training.config.evaluation.batch)
    started = time.perf_counter()
    with reading(training.networks) as readers, training.accelerator.autocast():
        evaluate_networks(readers, images, training.setting, num_classes=len(images.classes))
    return (time.perf_counter() - started) / len(images)


def state_bytes(training: Training) -> int:
    """Of what a checkpoint holds: student, teacher, and what the optimizer remembers of them."""
    parts: list[Any] = [training.accelerator.unwrap_model(training.student).state_dict().values()]
    parts += [training.teacher.state_dict().values()] if training.teacher is not None else []
    parts += [slots.values() for slots in training.optimizer.state_dict()["state"].values()]
    return sum(size_of(tensors) for tensors in parts)


def size_of(values: Iterable[Any]) -> int:
    return sum(value.numel() * value.element_size() for value in values if isinstance(value, Tensor))
