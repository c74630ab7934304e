"""The parts around the step: `loader`, `evaluate` and `budget`."""

import math
import statistics
import time
from dataclasses import replace
from functools import partial
from typing import Iterator

import numpy as np
import torch
from torch import Tensor

from ..data.batches import StepDataset
from ..data.loader import step_loader
from ..evaluation import inference
from ..evaluation.metrics import ConfusionMatrix
from ..evaluation.windows import sliding_rows
from ..networks.adapters import full_size_logits
from ..networks.encoder_weights import normalization
from ..training.engine import precision
from . import straight, straight_data
from .bench import Bench
from .material import build
from .memory import flops_of_evaluation, flops_of_step
from .timing import Disagreement, Row, agree

CONSUMPTION = 200  # pictures/s: twice what a training of 100 pictures/s takes
PUBLISHED = {  # evaluation images, height and width of one, steps between two evaluations
    "voc": (1449, (375, 500), 1150),
    "cityscapes": (500, (1024, 2048), 1000),
}


# ---- loading


def loader(bench: Bench) -> Iterator[Row]:
    """Pictures of training steps on one core; then over worker processes."""
    straight.check_method(bench.config.method)
    config = replace(bench.config, run=replace(bench.config.run, batch=replace(bench.config.run.batch, rounds=1)))
    steps = StepDataset(config, bench.sources, (1, 1), 0, 1)
    mean, std = (np.array(values, np.float32) for values in normalization(config.model))
    check_loader(steps, mean, std)
    images = config.run.batch.labeled + (config.run.batch.unlabeled if config.method.teacher != "none" else 0)
    numbers = dict.fromkeys(("ours", "straight"), config.method.burn_in)

    def turn(which: str, load) -> None:
        load(numbers[which])
        numbers[which] += 1

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        row = bench.watch.compare(
            f"pictures of a step, {images} crops of {config.data.crop[0]}x{config.data.crop[1]}, one core",
            partial(turn, "ours", lambda step: steps.batch(step, 0)),
            partial(turn, "straight", lambda step: straight_data.load_step(steps, step, mean, std)),
            images=images,
        )  # fmt: skip
    finally:
        torch.set_num_threads(threads)
    yield row
    rate = images / row.ours.median
    bench.facts["loader"] = {"images_per_second_per_core": rate}
    bench.say(
        f"loader: {rate:.1f} pictures/s on a core; {math.ceil(CONSUMPTION / rate)} workers deliver {CONSUMPTION}/s, twice"
        f" what a step of {CONSUMPTION // 2} pictures/s takes; with {config.data.workers} workers here"
        f" {rate_of_workers(steps, images):.1f}/s"
    )


def rate_of_workers(steps: StepDataset, images: int, count: int = 6) -> float:
    """Pictures per second of the loader as training runs it, once it runs."""
    workers = max(1, steps.config.data.workers)
    batches = step_loader(steps, 0, count + workers, workers=workers, pin_memory=False)
    for _ in range(workers):
        next(batches)
    start = time.perf_counter()
    for _ in batches:
        pass
    return count * images / (time.perf_counter() - start)


def check_loader(steps: StepDataset, mean: np.ndarray, std: np.ndarray) -> None:
    """The pictures of a step are the same to within a grey level on average: cut before resizing, and colours rounded
    less often, ours cannot be equal to the bit."""
    first = steps.config.method.burn_in
    batch, pictures = steps.batch(first, 0), straight_data.load_step(steps, first, mean, std)
    labels, labeled = pictures[: 2 * len(batch.labeled) : 2], pictures[1 : 2 * len(batch.labeled) : 2]
    rest = pictures[2 * len(batch.labeled) :]
    moved = float((batch.labels.numpy() != np.stack(labels)).mean())
    if moved > 0.01:  # ties of "nearest" fall one way or the other
        raise Disagreement(f"the labels of a step differ at {100 * moved:.1f} % of the pixels; nothing was timed")
    views = [("labelled", batch.labeled, labeled, batch.labeled_valid)]
    if rest:
        views += [("weak", batch.weak, rest[::2], batch.valid), ("strong", batch.strong[0].images, rest[1::2], batch.valid)]
    for name, ours, other, valid in views:
        grey = (np.stack(other).transpose(0, 2, 3, 1) * std + mean) * 255
        difference = np.abs(ours.permute(0, 2, 3, 1).numpy() - grey)[valid.numpy()].mean()
        if not difference <= 1:
            raise Disagreement(f"the {name} pictures of a step differ by {difference:.1f} grey levels; nothing was timed")


# ---- evaluation


def evaluate(bench: Bench) -> Iterator[Row]:
    """Counting 50 maps, and reading 1024x2048 in windows."""
    yield from counting(bench)
    yield windows(bench, reader(bench))


def reader(bench: Bench) -> inference.Network:
    return partial(full_size_logits, build(bench.config, bench.sources, bench.device).teacher.network)


def counting(bench: Bench, maps: int = 50, size: tuple[int, int] = (512, 512), classes: int = 21) -> Iterator[Row]:
    """Ours on the device, against histograms image by image, and against Arrow-backed ones."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(classes, (maps, *size), generator=generator, dtype=torch.uint8)
    predictions = torch.where(torch.rand(labels.shape, generator=generator) < 0.7, labels, labels.flip(0))
    labels[:, :8] = 255
    on_device, on_host = (labels.to(bench.device), predictions.to(bench.device)), (labels.numpy(), predictions.numpy())

    def ours() -> float:
        matrix = ConfusionMatrix(classes, device=bench.device)
        for truth, prediction in zip(*on_device):
            matrix.update(prediction, truth)
        return matrix.mean_iou()

    def histograms() -> float:
        return straight_data.mean_iou(on_host[1], on_host[0], classes)

    metric = straight_data.arrow_metric(classes)

    def arrow() -> float:
        for truth, prediction in zip(*on_host):
            metric.add(prediction=prediction.astype(np.uint16), reference=truth.astype(np.uint16))
        return metric.compute()["mean_iou"]

    for name, other in (("histograms", histograms), ("Arrow-backed histograms", arrow)):
        agree(f"mIoU by {name}", torch.tensor(ours()), torch.tensor(other()), 1e-9)
        what = f"metric, {maps} maps of {size[0]}x{size[1]}, {classes} classes"
        yield bench.watch.compare(what, ours, other, images=maps, against=f"NumPy {name}")


def windows(bench: Bench, network: inference.Network, size: tuple[int, int] = (1024, 2048)) -> Row:
    """Logits of one image of Cityscapes' size in windows of the config."""
    setting = setting_of(bench)
    image = torch.rand(1, 3, *size, device=bench.device)
    stride = tuple(side * 2 // 3 for side in setting.window)

    def ours() -> Tensor:
        rows = sliding_rows(network, image[0], window=setting.window, stride=stride, batch=setting.evaluation.batch)
        return torch.cat(list(rows), dim=1)[None]

    def other() -> Tensor:
        return straight_data.window_by_window(network, image, setting.window, stride)

    agree("logits in windows", ours(), other(), 1e-3)
    window = "x".join(map(str, setting.window))
    return bench.watch.compare(f"{size[0]}x{size[1]} in windows of {window}", ours, other, images=1, against="one at a time")


def budget(bench: Bench) -> Iterator[Row]:
    """Says which part of a training its evaluations take, at the published and at the config's interval.

    Of its arithmetic; and of its time on this machine, where `step` was timed in the same run. There is no other way to
    compare with.
    """
    name = "cityscapes" if bench.config.evaluation.mode == "sliding" else "voc"
    (images, size, published), classes = PUBLISHED[name], len(bench.sources.classes)
    reading, step = flops_of_evaluation(bench.config, classes, size), flops_of_step(bench.config, classes)
    timed = bench.facts.get("step")
    if timed:
        seconds, whole_step = time_of_reading(bench, size), timed["seconds"] * timed["rounds"]
    for every in sorted({published, bench.config.evaluation.every}):
        share = share_of(2 * images * reading, every * step)
        bench.facts[f"evaluation_share_every_{every}"] = share
        said = f"{reading / 1e12:.2f} TFLOP each, every {every} steps of {step / 1e12:.2f} TFLOP:"
        said += f" {100 * share:.1f} % of a training's arithmetic"
        if timed:
            share = share_of(2 * images * seconds, every * whole_step)
            bench.facts[f"evaluation_share_of_time_every_{every}"] = share
            said += f", {100 * share:.1f} % of its time here ({seconds:.2f} s an image, {whole_step:.1f} s a step)"
        bench.say(f"budget: student and teacher on {images} images of {name}, {said}")
    yield from ()


def share_of(part: float, rest: float) -> float:
    return part / (part + rest)


def time_of_reading(bench: Bench, size: tuple[int, int]) -> float:
    """Seconds that one network takes for the class map of one image, in the precision of the training."""
    network = reader(bench)
    image = torch.randint(256, (3, *size), dtype=torch.uint8)
    half = precision(bench.config.run.mixed_precision) == "bf16"

    def run() -> Tensor:
        with torch.autocast(bench.device.type, torch.bfloat16, enabled=half):
            return inference.predict(network, image, setting_of(bench))

    run()
    return statistics.median(bench.watch.time(run) for _ in range(bench.watch.repeats))


def setting_of(bench: Bench) -> inference.Setting:
    mean, std = normalization(bench.config.model)
    config = bench.config
    return inference.Setting(evaluation=config.evaluation, crop=config.data.crop, mean=mean, std=std, device=bench.device)
