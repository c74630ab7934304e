"""The cost of a run, measured on a few of its steps: memory, seconds, and the share of them spent waiting for data."""

import time
from contextlib import closing
from dataclasses import dataclass
from typing import Iterator

import torch

from ..data.batches import StepDataset, ValidationSet
from ..data.loader import step_loader
from ..evaluation.inference import evaluate_networks
from ..method.batch import Batch
from ..method.checks import shuffle_grid
from .checkpoint import total_bytes
from .engine import update
from .machine import peak_memory_gib
from .resume import state_dict
from .run import Training, eval_mode

MEASURED = 3  # steps that count, at least
WARM_UP = 30.0  # most seconds for the steps before them, which start loader workers and use up what they prefetch


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a few steps took."""

    steps: int  # that were measured
    seconds: float  # of one of them, waiting for data included
    waiting: float  # the share of it spent waiting for data
    memory_gib: float  # peak: of the GPU's allocator, or of this process on a CPU
    evaluation_seconds: float  # of one image, all networks
    state_bytes: int  # of a checkpoint
    network_bytes: int  # of an exported model


def measure_cost(training: Training, processes: int = 1) -> Cost:
    """Trains a few steps and evaluates a batch of images; the training cannot be used for anything else afterwards.

    processes: among how many the global batch will be shared; this one takes the share of the first.
    `DataError` if a batch cannot be made, torch.OutOfMemoryError if it does not fit.
    """
    config, device, network = training.config, training.accelerator.device, training.networks["student"]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    steps = StepDataset(
        config, training.sources, shuffle_grid(config, network), 0, processes, device_colour=training.steps.device_colour
    )
    first = config.method.burn_in  # steps of a burn-in have no unlabelled images, and cost less
    last = first + MEASURED * 1000  # more than will be taken
    with closing(step_loader(steps, first, last, workers=config.data.workers, pin_memory=device.type == "cuda")) as batches:
        times = time_steps(training, batches)
    seconds, waited = (sum(column) / len(times) for column in zip(*times))
    images, started = ValidationSet(config, training.sources, config.evaluation.batch), time.perf_counter()
    with training.accelerator.autocast(), eval_mode(training.networks) as networks:
        evaluate_networks(networks, images, training.setting, num_classes=len(images.classes))
    return Cost(
        steps=len(times), seconds=seconds, waiting=waited / seconds, memory_gib=peak_memory_gib(device),
        evaluation_seconds=(time.perf_counter() - started) / len(images),
        state_bytes=total_bytes(state_dict(training)), network_bytes=total_bytes(network.state_dict()),
    )  # fmt: skip


def time_steps(training: Training, batches: Iterator[Batch]) -> list[tuple[float, float]]:
    """(seconds, seconds of waiting for data) of each step, once what the loader had prefetched is used up."""
    config, accelerator, begin = training.config, training.accelerator, time.perf_counter()
    prefetched = 1 + 2 * config.data.workers // config.run.batch.rounds
    wanted = max(MEASURED, config.data.workers)  # workers deliver in bursts as long as there are workers
    count, times = 0, []
    while len(times) < wanted and not (len(times) >= MEASURED and time.perf_counter() - begin > 2 * WARM_UP):
        counts = count >= prefetched or time.perf_counter() - begin > WARM_UP
        started = time.perf_counter()
        rounds = [next(batches) for _ in range(config.run.batch.rounds)]
        waited = time.perf_counter() - started
        step = min(config.method.burn_in + count, config.schedule.steps - 1)  # a short run may have fewer than are measured
        on_device = map(training.to_device, rounds)
        update(accelerator, training.student, training.teacher, training.optimizer, on_device, step, config)
        if accelerator.device.type == "cuda":
            torch.cuda.synchronize(accelerator.device)
        times += [(time.perf_counter() - started, waited)] if counts else []
        count += 1
    return times
