"""What to train with on this machine: crop, block, batch, steps and the settings that go with them.

A proposal is a starting point by stated rules, not a measurement; preflight.py measures it.
"""

from dataclasses import dataclass
from typing import Any, Sequence

from ..training.machine import Machine

BATCH = 8  # labelled images of a step, and as many unlabelled ones: the paper's
BLOCKS = 4  # PatchShuffle blocks along a side of a crop, as in the paper
PASSES = 60  # over the pool, about as many as the paper makes over VOC's
# Steps from which on the paper's settings fit. A shorter run wants a teacher that follows and is less strict; and half of it on
# the labels alone, which costs a third, for a teacher worth listening to (CamVid with 23 labels: 43.9 mIoU in 22 minutes where
# 2,000 steps of labels alone had 42.8 in 21; with thresholds of classes, and one seed).
LONG = 20_000


@dataclass(frozen=True)
class Recipe:
    """The settings of a family of encoders: its architecture, pixels per token, and the optimizer its configs here have."""

    architecture: str
    stride: int
    optimizer: dict[str, Any]
    model: dict[str, Any]


ADAMW = {"name": "adamw", "weight_decay": 0.01}
RECIPES = {  # by the beginning of model.encoder; the first that fits
    "mit-": Recipe("segformer", 32, {**ADAMW, "lr": 6e-5}, {}),
    "dinov2-": Recipe("dpt", 14, {**ADAMW, "lr": 5e-6, "head_multiplier": 40}, {"decoder_channels": 128}),
    "dinov3-": Recipe("dpt", 16, {**ADAMW, "lr": 5e-6, "head_multiplier": 40}, {"decoder_channels": 128}),
    "resnet": Recipe("deeplabv3plus", 16, {"lr": 5e-4, "weight_decay": 2e-4}, {}),
    "shapes": Recipe("setr", 8, {**ADAMW, "lr": 1e-4}, {"decoder_channels": 128, "decoder_stages": 2}),
    "": Recipe("setr", 16, {**ADAMW, "lr": 1e-4}, {"decoder_channels": 128, "decoder_stages": 2}),
}


def propose(machine: Machine, sizes: Sequence[tuple[int, int]], images: int, encoder: str = "") -> dict[str, dict[str, Any]]:
    """Sections of a config for photos of these sizes (height, width), of which `images` are unlabelled.

    Args:
        encoder: `model.encoder`; empty = the largest DeiT that the machine is likely to hold.
    """
    encoder = encoder or default_encoder(machine)
    recipe = next(recipe for start, recipe in RECIPES.items() if encoder.startswith(start))
    crop, short, long = crop_for(sizes, recipe.stride, 512 if machine.gpus else 256 if machine.cores >= 8 else 192)
    steps = steps_for(images, machine)
    every = max(50, steps // 10)
    method: dict[str, Any] = {"block": crop // (BLOCKS * recipe.stride), "ema_warm_up": True}
    if steps < LONG:
        method |= {"threshold": 0.9, "ema": 0.99, "burn_in": steps // 2}
    if recipe.architecture == "setr":
        method["auxiliary_weight"] = 0
    if recipe.architecture == "deeplabv3plus":
        method["pasa"] = "none"
    run = {"batch": {"labeled": BATCH, "unlabeled": BATCH, "rounds": rounds_for(machine)}, "checkpoint_every": every}
    if machine.bfloat16 and not machine.gpus:
        run["mixed_precision"] = "bf16"
    return {
        "data": {"crop": [crop, crop], "resize": [long, short], "workers": workers_for(machine)},
        "model": {"architecture": recipe.architecture, "encoder": encoder, **recipe.model},
        "method": method if images else {"teacher": "none", **({"auxiliary_weight": 0} if "auxiliary_weight" in method else {})},
        "optimizer": recipe.optimizer,
        "schedule": {"steps": steps, "floor": 0, "warm_up": min(50, steps // 10)},
        "evaluation": {"every": every, "short_side": short},
        "run": run,
    }


def default_encoder(machine: Machine) -> str:
    if not machine.gpus:
        return "deit-tiny"
    return "deit-base" if machine.memory_gib >= 20 else "deit-small"


def rounds_for(machine: Machine) -> int:
    """Accumulation rounds: two where a GPU is small."""
    return 2 if machine.gpus == 1 and machine.memory_gib < 20 else 1


def workers_for(machine: Machine) -> int:
    """Loader processes per training process; on a CPU they take cores from the training itself."""
    return max(1, min(8, machine.cores // machine.gpus - 1)) if machine.gpus else max(1, min(2, machine.cores // 4))


def steps_for(images: int, machine: Machine) -> int:
    """So many steps that the pool is seen PASSES times, within what makes sense on the machine; in hundreds."""
    least, most = (2_000, 80_000) if machine.gpus else (500, 2_000)
    return min(most, max(least, 100 * round(PASSES * images / BATCH / 100)))


def crop_for(sizes: Sequence[tuple[int, int]], stride: int, most: int) -> tuple[int, int, int]:
    """Side of the crop, and the shortest and longest side that photos are fitted into before they are cut.

    The crop is made of whole PatchShuffle blocks. Photos up to half as large again keep their size; larger ones are made
    as small as the crop, as the paper does, so that a crop shows most of a scene.
    """
    unit = BLOCKS * stride
    usual = sorted(min(size) for size in sizes)[len(sizes) // 2]
    crop = unit * max(1, min(usual, most) // unit)
    short = usual if crop <= usual <= 1.5 * crop else crop
    ratio = max(max(size) / min(size) for size in sizes)
    return crop, short, int(short * max(ratio, 2) + 0.5)
