"""What is benchmarked: networks with random weights and a batch of a config; drawn images where its data is missing."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from ..config import Config, Data, Shapes
from ..data.batches import StepDataset
from ..data.sources import CLASSES, Sources, load_sources
from ..method.batch import Batch
from ..method.checks import check_network, shuffle_grid
from ..method.student import Student
from ..networks.build import build_network
from ..networks.encoder_weights import normalization
from ..training.engine import Teacher, build_teacher, predict_with_student

SCENES = Shapes(labeled=4, unlabeled=8, validation=4, height=375, width=500)  # drawn where the data is missing


def benchmark_inputs(config: Config, *_: object) -> tuple[Config, Sources, str]:
    """The config with random weights, its data or else drawn scenes, and a description of them.

    Scripts of before give a folder for drawn images as well, which is not needed any more.
    """
    config = replace(config, model=replace(config.model, pretrained=False))
    data = config.data
    if data.source in ("shapes", "hub") or (data.root and Path(data.root).exists()):
        return config, load_sources(data), f"images of {data.root or data.source}"
    drawn = load_sources(Data(source="shapes", shapes=SCENES))
    names = data.classes or CLASSES.get(data.source, CLASSES["voc"])
    names = max(names, drawn.classes, key=len)  # as many classes as the data has; those of the scenes need theirs
    description = f"drawn scenes of {SCENES.width}x{SCENES.height}, since {data.root or 'data.root'} is not there"
    config = replace(config, data=replace(data, source="shapes", shapes=SCENES, root="", id_map={}))
    return config, replace(drawn, classes=names), description


@dataclass(frozen=True, kw_only=True)
class StepInputs:
    """Networks with random weights and a normalised batch, float32, on the device."""

    config: Config
    student: Student
    teacher: Teacher | None
    batch: Batch


def build(config: Config, sources: Sources, device: torch.device) -> StepInputs:
    """The inputs of a step; its threshold is the median confidence, so that half of the pixels are pseudo labels."""
    inputs = initialize(config, sources, device)
    if config.method.teacher == "none":
        return inputs
    with torch.no_grad():
        logits = predict_with_student(inputs.student.network, inputs.batch.weak)  # which a teacher is a copy of
    confidence = logits.float().softmax(dim=1).amax(dim=1)
    return replace(inputs, config=replace(config, method=replace(config.method, threshold=float(confidence.median()))))


def initialize(config: Config, sources: Sources, device: torch.device) -> StepInputs:
    """The student and teacher of a config, and the batch of its first step after the burn-in, of one accumulation round."""
    torch.manual_seed(0)
    network = build_network(config.model, id2label=dict(enumerate(sources.classes)), crop=config.data.crop)
    randomize_classifier(network)
    check_network(config, network)
    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in normalization(config.model))
    steps = StepDataset(config, sources, shuffle_grid(config, network), 0, 1)
    batch = steps.batch(config.method.burn_in, 0).on(device, mean, std)
    student = Student(network, config.method).to(device)
    teacher = build_teacher(student) if config.method.teacher == "ema" else None
    return StepInputs(config=config, student=student, teacher=teacher, batch=batch)


def randomize_classifier(network: nn.Module) -> None:
    """Large weights and no bias, so that predictions are of many classes; initialised ones give the same everywhere."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.out_channels == network.config.num_labels:
            nn.init.normal_(module.weight, std=1.0)
            nn.init.zeros_(module.bias)
