"""The parts around the step: `loader`, and `windows` against reading them one at a time."""

import itertools
import math
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from ..data.batches import StepDataset
from ..data.loader import step_loader
from ..evaluation.inference import Setting
from ..evaluation.windows import sliding_rows
from ..networks.adapters import forward_logits
from ..networks.encoder_weights import normalization
from . import reference
from .inputs import initialize
from .timing import Benchmark, Row, check_close

CONSUMPTION = 200  # images/s: twice what a training of 100 images/s takes


def loader(benchmark: Benchmark) -> Iterator[Row]:
    """The images of training steps on one core; then over worker processes."""
    run = benchmark.config.run
    config = replace(benchmark.config, run=replace(run, batch=replace(run.batch, rounds=1)))
    datasets = [StepDataset(config, benchmark.sources, (1, 1), 0, 1, device_colour=on) for on in (False, True)]
    dataset, runs = datasets[0], [partial(load_next, each, itertools.count(config.method.burn_in)) for each in datasets]
    images, (height, width) = run.batch.labeled + run.batch.unlabeled, config.data.crop
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        name = f"images of a step, {images} crops of {height}x{width}, one core"
        row = benchmark.timer.compare(name, *runs, images=images, against="colours left to a GPU")
    finally:
        torch.set_num_threads(threads)
    yield row
    rate = row.images_per_second
    benchmark.facts["loader"] = {"images_per_second_per_core": rate}
    benchmark.notes.append(
        f"loader: {rate:.1f} images/s on a core; {math.ceil(CONSUMPTION / rate)} workers deliver {CONSUMPTION}/s, twice"
        f" what a step of {CONSUMPTION // 2} images/s takes; with {config.data.workers} workers here"
        f" {images_per_second(dataset, images):.1f}/s"
    )


def load_next(dataset: StepDataset, steps: Iterator[int]) -> object:
    return dataset.batch(next(steps), 0)


def images_per_second(steps: StepDataset, images: int, count: int = 6) -> float:
    """Of the loader as training runs it, once its workers are up."""
    workers = max(1, steps.config.data.workers)
    batches = step_loader(steps, 0, count + workers, workers=workers, pin_memory=False)
    for _ in range(workers):
        next(batches)
    start = time.perf_counter()
    for _ in batches:
        pass
    return count * images / (time.perf_counter() - start)


def windows(benchmark: Benchmark, size: tuple[int, int] = (1024, 2048)) -> Iterator[Row]:
    """Logits of one image of Cityscapes' size in windows of the config."""
    config, (mean, std) = benchmark.config, normalization(benchmark.config.model)
    setting = Setting(evaluation=config.evaluation, crop=config.data.crop, mean=mean, std=std, device=benchmark.device)
    network = partial(forward_logits, initialize(config, benchmark.sources, benchmark.device).teacher.network)
    image, window = torch.rand(1, 3, *size, device=benchmark.device), setting.window
    stride = tuple(side * 2 // 3 for side in window)

    def ours() -> Tensor:
        rows = sliding_rows(network, image[0], window=window, stride=stride, batch=config.evaluation.batch)
        return torch.cat(list(rows), dim=1)[None]

    other = partial(reference.sliding_logits, network, image, window, stride)
    check_close("logits in windows", ours(), other(), 1e-3)
    name = f"{size[0]}x{size[1]} in windows of {window[0]}x{window[1]}"
    yield benchmark.timer.compare(name, ours, other, images=1, against="one at a time")
