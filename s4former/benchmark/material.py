"""What a benchmark works on: the networks and batches of a config, and pictures where it has none at hand."""

import copy
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Iterator

import torch
from PIL import Image
from torch import Tensor, nn

from ..config import Config
from ..data import shapes
from ..data.batches import StepDataset
from ..data.class_names import CITYSCAPES_CLASSES, COCO_CLASSES, VOC_CLASSES
from ..data.sources import Sources, load_sources
from ..method.batch import Batch
from ..method.checks import check_network, shuffle_grid
from ..method.student import Student
from ..networks.build import build_network
from ..networks.encoder_weights import normalization
from ..training.engine import Teacher

SIZES = {"cityscapes": (1024, 2048)}  # height, width of the drawn pictures; else those of VOC
VOC_SIZE = (375, 500)
CLASSES = {"cityscapes": CITYSCAPES_CLASSES, "coco": COCO_CLASSES}  # else those of VOC
PICTURES = 12  # drawn, a third of them labelled


def at_hand(config: Config, folder: Path) -> tuple[Config, Sources, str]:
    """The config with random weights and data that is there: its own, or JPEGs of drawn scenes in `folder`; in words too."""
    config = replace(config, model=replace(config.model, pretrained=False))
    data = config.data
    if data.source == "shapes" or data.source == "hub" or (data.root and Path(data.root).exists()):
        return config, load_sources(data), f"pictures of {data.root or data.source}"
    height, width = SIZES.get(data.source, VOC_SIZE)
    draw_pictures(folder, height, width)
    classes = data.classes or CLASSES.get(data.source, VOC_CLASSES)
    lists = {"labeled": "labeled.txt", "validation": "validation.txt", "unlabeled": ""}
    data = replace(data, source="folder", root=str(folder), classes=classes, id_map={}, **lists)
    said = f"{PICTURES} drawn JPEGs of {width}x{height}, since {config.data.root or 'data.root'} is not there"
    return replace(config, data=data), load_sources(data), said


def draw_pictures(folder: Path, height: int, width: int) -> None:
    """Scenes of the painted world as JPEGs, with masks, in the layout of `data.source=folder`."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for index in range(PICTURES):
        image, mask = shapes.scene(0, index, height=height, width=width)
        Image.fromarray(image).save(folder / "images" / f"{index:02}.jpg", quality=92)
        Image.fromarray(mask).save(folder / "masks" / f"{index:02}.png")
    ids, third = [f"{index:02}" for index in range(PICTURES)], PICTURES // 3
    (folder / "labeled.txt").write_text("\n".join(ids[:third]) + "\n")
    (folder / "validation.txt").write_text("\n".join(ids[-third:]) + "\n")


@dataclass(frozen=True, kw_only=True)
class Material:
    """Networks with random weights and one batch of a config, float32, on the device."""

    config: Config  # its threshold is the median confidence of this teacher, so half of the pixels are pseudo labels
    student: Student
    teacher: Teacher
    batch: Batch
    steps: StepDataset

    def copy(self) -> tuple[Student, Teacher]:
        """Networks of the same weights."""
        return copy.deepcopy(self.student), copy.deepcopy(self.teacher)


def build(config: Config, sources: Sources, device: torch.device) -> Material:
    """The student and teacher of a config, and its first batch after a burn-in."""
    torch.manual_seed(0)
    network = build_network(config.model, id2label=dict(enumerate(sources.classes)), crop=config.data.crop)
    spread_classes(network)
    check_network(config, network)
    steps = StepDataset(config, sources, shuffle_grid(config, network), 0, 1)
    constants = (torch.tensor(values, device=device)[:, None, None] for values in normalization(config.model))
    batch = steps.batch(config.method.burn_in, 0).on(device, *constants)
    student, teacher = Student(network, config.method).to(device), Teacher(network).to(device)
    if config.method.teacher != "none":
        config = replace(config, method=replace(config.method, threshold=median_confidence(teacher, batch)))
    return Material(config=config, student=student, teacher=teacher, batch=batch, steps=steps)


def spread_classes(network: nn.Module) -> None:
    """Random classifiers agree on one class; larger weights and no bias make predictions of many."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.out_channels == network.config.num_labels:
            nn.init.normal_(module.weight, std=1.0)
            nn.init.zeros_(module.bias)


@torch.no_grad()
def median_confidence(teacher: Teacher, batch: Batch) -> float:
    return float(teacher(batch.weak).float().softmax(dim=1).amax(dim=1).median())


@contextmanager
def without_chance(*networks: nn.Module) -> Iterator[None]:
    """Dropout and drop path off, whatever else training mode does on."""
    modules = [module for network in networks for module in network.modules()]
    names = ("p", "drop_prob", "attention_dropout")
    found = [(module, name) for module in modules for name in names if isinstance(getattr(module, name, None), float)]
    kept = [getattr(module, name) for module, name in found]
    try:
        for module, name in found:
            setattr(module, name, 0.0)
        yield
    finally:
        for (module, name), value in zip(found, kept):
            setattr(module, name, value)


def random_logits(classes: int, images: int, size: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Student logits, teacher logits (B, K, H, W) and labels (B, H, W), half of them 255."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (3 * torch.randn(images, classes, *size, generator=generator) for _ in range(2))
    labels = teacher.argmax(dim=1)
    labels[torch.rand(labels.shape, generator=generator) < 0.5] = 255
    return student.to(device), teacher.to(device), labels.to(device)
