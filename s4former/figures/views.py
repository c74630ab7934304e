"""Figure S3: what the student sees of unlabelled images: weak view, colour, CutMix, PatchShuffle, and both.

The batch is that of a training step, with the same boxes and orders, but every image is mixed and shuffled.
"""

import argparse
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..config import MIX_NAMES, Config, load
from ..data.batches import StepDataset
from ..data.sources import load_sources
from ..errors import ConfigError
from ..method.batch import Batch
from ..method.checks import shuffle_grid
from ..method.mixing import MIXES, gather
from ..method.patch_shuffle import patch_shuffle
from ..method.pseudo import pseudo_label
from ..networks.build import build_network
from .page import Figure, Panel, grid_figure

COLOUR_NAMES = {"photometric": "Photometric distortion", "jitter": "Jitter, grey, blur", "random_intensity": "Random intensity"}
MEAN, STD = torch.full((3, 1, 1), 0.5), torch.full((3, 1, 1), 0.5)  # what is erased or padded shows as grey


def mix_every_image(config: Config) -> Config:
    """The config with every image mixed and every image shuffled, from the first step on."""
    if config.method.mix in ("classmix", "classmix_half", "adaptive_cutmix", "cutmix_hardness"):
        raise ConfigError(f"method.mix = {config.method.mix!r} follows what a teacher says; the figure has none, use method.mix=cutmix")
    if config.method.teacher == "none":
        raise ConfigError("method.teacher = 'none' has no unlabelled images to show; use method.teacher=ema")
    if config.method.algorithm != "consistency":
        raise ConfigError(f"method.algorithm = {config.method.algorithm!r} shuffles nothing; the figure shows method.algorithm=consistency")
    certain = {"burn_in": 0, "mix_probability": 1.0, "patch_shuffle": True, "shuffle_probability": 1.0}
    return replace(config, method=replace(config.method, **certain))


def build_batch(config: Config, step: int) -> Batch:
    """The batch of a step as one process would get it."""
    sources = load_sources(config.data)
    with torch.device("meta"):  # for its token grid only
        network = build_network(
            replace(config.model, pretrained=False), id2label=dict(enumerate(sources.classes)), crop=config.data.crop
        )
    batch = StepDataset(config, sources, shuffle_grid(config, network), process=0, processes=1).batch(step, 0)
    return batch.on(torch.device("cpu"), MEAN, STD)


@torch.no_grad()
def views(batch: Batch, mix_name: str) -> list[Tensor]:
    """(B, 3, H, W) each, made as in step.py: weak, colour, mixed, shuffled, mixed and shuffled."""
    mix, strong, own = MIXES[mix_name], batch.strong[0], batch.unlabeled
    pseudo = pseudo_label(torch.zeros(len(batch.weak), 2, *batch.weak.shape[-2:]), batch.valid, 1.0)  # no mix here looks at them
    source = mix.source(strong.mix, pseudo.first(own), strong.images.shape[-2:])
    mixed = gather(strong.images, source)
    images = strong.images[:own]
    return [batch.weak[:own], images, mixed, patch_shuffle(images, strong.orders), patch_shuffle(mixed, strong.orders)]


def to_uint8(image: Tensor) -> np.ndarray:
    """(3, H, W) normalised to (H, W, 3) uint8."""
    return (255 * (image * STD + MEAN)).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()


def draw(sources: list[str], overrides: list[str], options: argparse.Namespace) -> Figure:
    config = mix_every_image(load(options.config, overrides))
    batch = build_batch(config, options.step)
    columns, mix = views(batch, config.method.mix), MIX_NAMES[config.method.mix]
    titles = ["Weak view", COLOUR_NAMES.get(config.method.strong_colour, "Strong view"), mix, "PatchShuffle", f"PatchShuffle + {mix}"]
    if config.method.mix == "none":
        columns, titles = [columns[i] for i in (0, 1, 3)], [titles[i] for i in (0, 1, 3)]
    rows = [[Panel(to_uint8(column[i])) for column in columns] for i in range(min(options.count, batch.unlabeled))]
    return grid_figure(rows, titles, [], ())
