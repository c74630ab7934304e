"""The parts around the step: `loader`, `evaluate` and `budget`."""

import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ..data.batches import StepDataset
from ..data.loader import step_loader
from ..evaluation.inference import Network, Setting, predict
from ..evaluation.metrics import ConfusionMatrix
from ..evaluation.windows import sliding_rows
from ..networks.adapters import full_size_logits
from ..networks.encoder_weights import normalization
from ..training.engine import precision
from . import reference_data as reference
from .cost import flops_of_evaluation, flops_of_step
from .inputs import initialize, mean_and_std
from .reference_step import check_method
from .timing import Benchmark, Comparison, MismatchError, check_close

CONSUMPTION = 200  # images/s: twice what a training of 100 images/s takes
PUBLISHED = {  # evaluation images, height and width of one, steps between two evaluations
    "voc": (1449, (375, 500), 1150),
    "cityscapes": (500, (1024, 2048), 1000),
}


# ---- loading


def loader(benchmark: Benchmark) -> Iterator[Comparison]:
    """The images of training steps on one core; then over worker processes."""
    check_method(benchmark.config.method)
    run = benchmark.config.run
    config = replace(benchmark.config, run=replace(run, batch=replace(run.batch, rounds=1)))
    ours, other = (kind(config, benchmark.sources, (1, 1), 0, 1) for kind in (StepDataset, reference.ReferenceDataset))
    check_loader(ours, other)
    images, (height, width) = run.batch.labeled + run.batch.unlabeled, config.data.crop

    def load_steps(dataset: StepDataset) -> Callable[[], object]:
        steps = itertools.count(config.method.burn_in)
        return lambda: dataset.batch(next(steps), 0)

    name = f"images of a step, {images} crops of {height}x{width}, one core"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        row = benchmark.timer.compare(name, load_steps(ours), load_steps(other), images=images)
    finally:
        torch.set_num_threads(threads)
    yield row
    rate = row.images_per_second
    benchmark.facts["loader"] = {"images_per_second_per_core": rate}
    benchmark.notes.append(
        f"loader: {rate:.1f} images/s on a core; {math.ceil(CONSUMPTION / rate)} workers deliver {CONSUMPTION}/s, twice"
        f" what a step of {CONSUMPTION // 2} images/s takes; with {config.data.workers} workers here"
        f" {images_per_second(ours, images):.1f}/s"
    )


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


def check_loader(steps: StepDataset, reference_steps: reference.ReferenceDataset) -> None:
    """The images of a step are the same to within a grey level on average; not to the bit, since ours are cut before they
    are resized and their colours rounded less often."""
    first, (mean, std) = steps.config.method.burn_in, mean_and_std(steps.config, torch.device("cpu"))
    ours, other = steps.batch(first, 0).on(mean.device, mean, std), reference_steps.batch(first, 0)
    share = float((ours.labels != other.labels).float().mean())
    if share > 0.01:  # rounding of "nearest"
        raise MismatchError(f"the labels of a step differ at {100 * share:.1f} % of the pixels; nothing was timed")
    for name, images, expected, valid in (
        ("labelled", ours.labeled, other.labeled, ours.labeled_valid),
        ("weak", ours.weak, other.weak, ours.valid),
        ("strong", ours.strong[0].images, other.strong[0].images, ours.valid),
    ):
        difference = float((255 * std * (images - expected).abs()).movedim(1, -1)[valid].mean())
        if not difference <= 1:
            raise MismatchError(f"the {name} images of a step differ by {difference:.1f} grey levels; nothing was timed")


# ---- evaluation


def evaluate(benchmark: Benchmark) -> Iterator[Comparison]:
    """Scoring 50 class maps, and reading 1024x2048 in windows."""
    yield from scoring(benchmark)
    yield windows(benchmark, random_network(benchmark))


def random_network(benchmark: Benchmark) -> Network:
    return partial(full_size_logits, initialize(benchmark.config, benchmark.sources, benchmark.device).teacher.network)


def setting_of(benchmark: Benchmark) -> Setting:
    config, (mean, std) = benchmark.config, normalization(benchmark.config.model)
    return Setting(evaluation=config.evaluation, crop=config.data.crop, mean=mean, std=std, device=benchmark.device)


def scoring(
    benchmark: Benchmark, maps: int = 50, size: tuple[int, int] = (512, 512), classes: int = 21
) -> Iterator[Comparison]:
    """A confusion matrix on the device, against histograms image by image, and against those of an Arrow table."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(classes, (maps, *size), generator=generator, dtype=torch.uint8)
    predictions = torch.where(torch.rand(labels.shape, generator=generator) < 0.7, labels, labels.flip(0))
    labels[:, :8] = 255
    on_device = labels.to(benchmark.device), predictions.to(benchmark.device)
    metric = reference.arrow_metric(classes)

    def ours() -> float:
        matrix = ConfusionMatrix(classes, device=benchmark.device)
        for truth, prediction in zip(*on_device):
            matrix.update(prediction, truth)
        return matrix.mean_iou()

    def arrow() -> float:
        for truth, prediction in zip(labels.numpy(), predictions.numpy()):
            metric.add(prediction=prediction.astype(np.uint16), reference=truth.astype(np.uint16))
        return metric.compute()["mean_iou"]

    histograms = partial(reference.mean_iou, predictions.numpy(), labels.numpy(), classes)
    name = f"metric, {maps} maps of {size[0]}x{size[1]}, {classes} classes"
    for against, other in (("histograms", histograms), ("Arrow-backed histograms", arrow)):
        check_close(f"mIoU by {against}", torch.tensor(ours()), torch.tensor(other()), 1e-9)
        yield benchmark.timer.compare(name, ours, other, images=maps, against=f"NumPy {against}")


def windows(benchmark: Benchmark, network: Network, size: tuple[int, int] = (1024, 2048)) -> Comparison:
    """Logits of one image of Cityscapes' size in windows of the config."""
    setting = setting_of(benchmark)
    image, window = torch.rand(1, 3, *size, device=benchmark.device), setting.window
    stride = tuple(side * 2 // 3 for side in window)

    def ours() -> Tensor:
        rows = sliding_rows(network, image[0], window=window, stride=stride, batch=setting.evaluation.batch)
        return torch.cat(list(rows), dim=1)[None]

    other = partial(reference.sliding_logits, network, image, window, stride)
    check_close("logits in windows", ours(), other(), 1e-3)
    name = f"{size[0]}x{size[1]} in windows of {window[0]}x{window[1]}"
    return benchmark.timer.compare(name, ours, other, images=1, against="one at a time")


def budget(benchmark: Benchmark) -> Iterator[Comparison]:
    """Which share of a training its evaluations take, at the published and at the config's interval.

    Of its arithmetic; and of its time on this machine, where `step` was timed before. There is nothing to compare with.
    """
    config, facts = benchmark.config, benchmark.facts
    name = "cityscapes" if config.evaluation.mode == "sliding" else "voc"
    images, size, published = PUBLISHED[name]
    of_image, of_step = flops_of_evaluation(config, benchmark.sources, size), flops_of_step(config, benchmark.sources)
    if "step" in facts:
        image_seconds, step_seconds = time_per_image(benchmark, size), facts["step"]["seconds"] * facts["step"]["rounds"]
    for every in sorted({published, config.evaluation.every}):
        share = 2 * images * of_image / (2 * images * of_image + every * of_step)
        facts[f"evaluation_share_every_{every}"] = share
        note = (
            f"budget: student and teacher on {images} images of {name}, {of_image / 1e12:.2f} TFLOP each, every {every} steps of"
            f" {of_step / 1e12:.2f} TFLOP: {100 * share:.1f} % of a training's arithmetic"
        )
        if "step" in facts:
            share = 2 * images * image_seconds / (2 * images * image_seconds + every * step_seconds)
            facts[f"evaluation_share_of_time_every_{every}"] = share
            note += f", {100 * share:.1f} % of its time here ({image_seconds:.2f} s an image, {step_seconds:.1f} s a step)"
        benchmark.notes.append(note)
    yield from ()


def time_per_image(benchmark: Benchmark, size: tuple[int, int]) -> float:
    """Seconds that one network takes for the class map of one image, in the precision of the training."""
    network, setting = random_network(benchmark), setting_of(benchmark)
    image = torch.randint(256, (3, *size), dtype=torch.uint8)
    bfloat16 = precision(benchmark.config.run.mixed_precision) == "bf16"

    def run() -> Tensor:
        with torch.autocast(benchmark.device.type, torch.bfloat16, enabled=bfloat16):
            return predict(network, image, setting)

    run()
    return statistics.median(benchmark.timer.time(run) for _ in range(benchmark.timer.repeats))
