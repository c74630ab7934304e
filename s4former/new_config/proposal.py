"""What to train with on this machine: crop, block, batch, steps and the settings that go with them.

A proposal is a starting point by stated rules, not a measurement; `train_semi.py --check` measures it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..training.machine import Machine

BATCH = 8  # labelled images of a step, and as many unlabelled ones: the paper's
BLOCKS = 4  # PatchShuffle blocks along a side of a crop, as in the paper
PASSES = 60  # over the unlabelled images, about as many as the paper makes over VOC's
# Steps from which on the paper's settings fit. A shorter run wants a teacher that follows faster, a lower threshold, and
# half of its steps on the labels alone, which costs a third of the time (CamVid with 23 labels, thresholds of classes, one
# seed: 43.9 mIoU in 22 minutes, where 2,000 steps of labels alone had 42.8 in 21).
LONG_RUN = 20_000


@dataclass(frozen=True)
class Recipe:
    """The settings for a family of encoders."""

    architecture: str
    stride: int  # pixels per token
    optimizer: dict[str, Any]  # as the configs for this family have it
    model: dict[str, Any] = field(default_factory=dict)
    method: dict[str, Any] = field(default_factory=dict)


ADAMW = {"name": "adamw", "weight_decay": 0.01}
DINO = {**ADAMW, "lr": 5e-6, "head_multiplier": 40}, {"decoder_channels": 128}
SETR = {**ADAMW, "lr": 1e-4}, {"decoder_channels": 128, "decoder_stages": 2}, {"auxiliary_weight": 0}
RECIPES = {  # by the beginning of model.encoder; the first that fits
    "mit-": Recipe("segformer", 32, {**ADAMW, "lr": 6e-5}),
    "dinov2-": Recipe("dpt", 14, *DINO),
    "dinov3-": Recipe("dpt", 16, *DINO),
    "resnet": Recipe("deeplabv3plus", 16, {"lr": 5e-4, "weight_decay": 2e-4}, {}, {"pasa": "none"}),
    "shapes": Recipe("setr", 8, *SETR),
    "": Recipe("setr", 16, *SETR),
}


def propose(machine: Machine, sizes: Sequence[tuple[int, int]], images: int, encoder: str = "") -> dict[str, dict[str, Any]]:
    """Sections of a config for photos of these sizes (height, width), of which `images` are unlabelled.

    Args:
        encoder: `model.encoder`; empty = the largest DeiT that the machine is likely to hold.
    """
    gpus, cores = machine.gpus, machine.cores
    large = machine.memory_gib >= 20
    encoder = encoder or ("deit-tiny" if not gpus else "deit-base" if large else "deit-small")
    recipe = next(recipe for start, recipe in RECIPES.items() if encoder.startswith(start))
    crop, short, long = crop_for(sizes, recipe.stride, 512 if gpus else 256 if cores >= 8 else 192)
    least, most = (2_000, 80_000) if gpus else (500, 2_000)  # steps that make sense on the machine
    steps = min(most, max(least, 100 * round(PASSES * images / BATCH / 100)))
    every = max(50, steps // 10)
    # on a CPU, the loader processes take cores from the training itself
    workers = max(1, min(8, cores // gpus - 1)) if gpus else max(1, min(2, cores // 4))
    short_run = {"threshold": 0.9, "ema": 0.99, "burn_in": steps // 2} if steps < LONG_RUN else {}
    method = {"block": crop // (BLOCKS * recipe.stride), "ema_warm_up": True, **short_run, **recipe.method}
    if not images:
        method = {"teacher": "none", **recipe.method}
    rounds = 2 if gpus == 1 and not large else 1
    run = {"batch": {"labeled": BATCH, "unlabeled": BATCH, "rounds": rounds}, "checkpoint_every": every}
    if machine.bfloat16 and not gpus:
        run["mixed_precision"] = "bf16"
    return {
        "data": {"crop": [crop, crop], "resize": [long, short], "workers": workers},
        "model": {"architecture": recipe.architecture, "encoder": encoder, **recipe.model},
        "method": method,
        "optimizer": recipe.optimizer,
        "schedule": {"steps": steps, "floor": 0, "warm_up": min(50, steps // 10)},
        "evaluation": {"every": every, "short_side": short},
        "run": run,
    }


def crop_for(sizes: Sequence[tuple[int, int]], stride: int, most: int) -> tuple[int, int, int]:
    """Side of the crop, and the shortest and longest side that photos are fitted into before they are cut.

    The crop is made of whole PatchShuffle blocks. Photos up to half as large again keep their size; larger ones are made
    as small as the crop, as in the paper, so that a crop shows most of a scene.
    """
    unit = BLOCKS * stride
    usual = sorted(min(size) for size in sizes)[len(sizes) // 2]
    crop = unit * max(1, min(usual, most) // unit)
    short = usual if crop <= usual <= 1.5 * crop else crop
    ratio = max(max(size) / min(size) for size in sizes)
    return crop, short, int(short * max(ratio, 2) + 0.5)
