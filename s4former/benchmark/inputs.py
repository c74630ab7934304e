"""What is benchmarked: networks with random weights and a batch of a config; drawn images where its data is missing."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from torch import nn

from ..config import Config
from ..data import shapes
from ..data.batches import StepDataset
from ..data.sources import CLASSES, Sources, load_sources
from ..method.batch import Batch
from ..method.checks import check_network, shuffle_grid
from ..method.student import Student
from ..networks.build import build_network
from ..networks.encoder_weights import normalization
from ..training.engine import Teacher

IMAGE_COUNT = 12  # drawn, a third of them labelled


def benchmark_inputs(config: Config, folder: Path) -> tuple[Config, Sources, str]:
    """The config with random weights, its data or else JPEGs drawn into `folder`, and a description of them."""
    config = replace(config, model=replace(config.model, pretrained=False))
    data = config.data
    if data.source in ("shapes", "hub") or (data.root and Path(data.root).exists()):
        return config, load_sources(data), f"images of {data.root or data.source}"
    height, width = (1024, 2048) if data.source == "cityscapes" else (375, 500)
    classes = data.classes or CLASSES.get(data.source, CLASSES["voc"])
    if not (folder / "labeled.txt").exists():
        draw_images(folder, height, width)
    lists = {"labeled": "labeled.txt", "validation": "validation.txt", "unlabeled": ""}
    drawn = replace(data, source="folder", root=str(folder), classes=classes, id_map={}, **lists)
    description = f"{IMAGE_COUNT} drawn JPEGs of {width}x{height}, since {data.root or 'data.root'} is not there"
    return replace(config, data=drawn), load_sources(drawn), description


def draw_images(folder: Path, height: int, width: int) -> None:
    """Scenes of data/shapes.py as JPEGs with masks, in the layout of data.source=folder."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    ids = [f"{index:02}" for index in range(IMAGE_COUNT)]
    for index, name in enumerate(ids):
        image, mask = shapes.scene(0, index, height=height, width=width)
        Image.fromarray(image).save(folder / "images" / f"{name}.jpg", quality=92)
        Image.fromarray(mask).save(folder / "masks" / f"{name}.png")
    (folder / "validation.txt").write_text("\n".join(ids[-IMAGE_COUNT // 3 :]) + "\n")
    (folder / "labeled.txt").write_text("\n".join(ids[: IMAGE_COUNT // 3]) + "\n")


@dataclass(frozen=True, kw_only=True)
class StepInputs:
    """Networks with random weights and a normalised batch, float32, on the device."""

    config: Config
    student: Student
    teacher: Teacher
    batch: Batch


def build(config: Config, sources: Sources, device: torch.device) -> StepInputs:
    """The inputs of a step; its threshold is the median confidence, so that half of the pixels are pseudo labels."""
    inputs = initialize(config, sources, device)
    if config.method.teacher == "none":
        return inputs
    with torch.no_grad():
        confidence = inputs.teacher(inputs.batch.weak).float().softmax(dim=1).amax(dim=1)
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
    student, teacher = Student(network, config.method).to(device), Teacher(network).to(device)
    return StepInputs(config=config, student=student, teacher=teacher, batch=batch)


def randomize_classifier(network: nn.Module) -> None:
    """Large weights and no bias, so that predictions are of many classes; initialised ones give the same everywhere."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.out_channels == network.config.num_labels:
            nn.init.normal_(module.weight, std=1.0)
            nn.init.zeros_(module.bias)
