"""What to train with on this machine: crop, block, batch, steps and the settings that go with them, each with its reason.

A proposal is a starting point by stated rules, not a measurement; `train_semi.py --check` measures it. Beside each KEY stands
"KEY.note", a sentence; no rule jumps where one more photo or step makes no difference.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..training.machine import Machine

BATCH = 8  # labelled images of a step, and as many unlabelled ones: the paper's
BLOCKS = 4  # PatchShuffle blocks along a side of a crop, as in the paper
PASSES = 60  # over the unlabelled images, about as many as the paper makes over VOC's
SHORT_RUN, LONG_RUN = 2_000, 20_000  # steps; between them settings go over from those measured here to the paper's
LABELS_ONLY = 5_000  # steps, at most
CALIBRATED = "calibrated, where the report of a run says that confident pixels are right less often than the threshold"
FEW_LABELS, MANY_LABELS = 30, 300  # images that show a class; between them per-class thresholds go over to one for all
SINGLE_OBJECTS, WHOLE_SCENES = 20, 50  # percent of the classes, in a labelled image; between them one for all goes over to per-class thresholds
DEITS = ("deit-base", "deit-small", "deit-tiny")
# GiB in bfloat16, computed by `s4former benchmark memory` for the recipes below: networks, gradients and optimizer, and of each
# labelled image of 512 x 512 px with an unlabelled one. By a word in the name of the encoder; the first that fits.
PEAKS = {
    "tiny": (0.1, 0.33), "small": (0.5, 0.6), "large": (5.5, 2.9), "shapes": (0.1, 0.5), "resnet": (1.0, 1.5),
    "mit-b0": (0.1, 0.4), "mit-b1": (0.3, 0.65), "mit-b2": (0.5, 1.2), "mit-b": (1.3, 2.5), "": (1.5, 1.06),
}  # fmt: skip
DPT = 1.7  # times the second, for the head over a DINO
CHECKPOINTING = 0.5  # what is left of the second with model.activation_checkpointing


class Recipe(NamedTuple):
    """The settings for a family of encoders."""

    architecture: str
    optimizer: dict[str, Any]  # as the configs for this family have it
    model: dict[str, Any] = {}
    method: dict[str, Any] = {}


ADAMW = {"name": "adamw", "weight_decay": 0.01}
DINO = Recipe("dpt", {**ADAMW, "lr": 5e-6, "head_multiplier": 40}, {"decoder_channels": 128})
SETR = Recipe("setr", {**ADAMW, "lr": 1e-4}, {"decoder_channels": 128, "decoder_stages": 2}, {"auxiliary_weight": 0})
SEGFORMER = Recipe("segformer", {**ADAMW, "lr": 6e-5})
PLAIN = SETR._replace(architecture="dpt", model={"decoder_channels": 128}, method={})
RECIPES = {  # by the type of the encoder
    "vit": SETR, "segformer": SEGFORMER, "dinov2": DINO, "dinov2_with_registers": DINO, "dinov3_vit": DINO,
    "clip_vision_model": DINO, "siglip_vision_model": DINO, "deit": PLAIN, "beit": PLAIN,
    "resnet": Recipe("deeplabv3plus", {"lr": 5e-4, "weight_decay": 2e-4}, {}, {"pasa": "none"}),
    **dict.fromkeys(("swin", "hiera", "convnext"), SEGFORMER._replace(architecture="upernet", method={"pasa": "none"})),
}  # fmt: skip


def propose(
    machine: Machine, sizes: Sequence[tuple[int, int]], images: int, encoder: str = "", kind: tuple[str, int] = ("vit", 16),
    fewest: int = 0, shown: float = 1.0,
) -> dict[str, dict[str, Any]]:
    """Sections of a config, with notes, for photos of these sizes (height, width), of which `images` are unlabelled.

    encoder: `model.encoder`; empty = the largest DeiT that fits into the memory of a GPU, the smallest on a CPU. kind: its type and
    pixels per token, see `encoder_kind`. fewest: labelled images that show the class which the fewest show. shown: share of the classes that a labelled image shows, in the mean.
    """
    gpus, cores, recipe = machine.gpus, machine.cores, RECIPES[kind[0]]
    unit, most = BLOCKS * kind[1], 512 if gpus else 256 if cores >= 8 else 192
    wanted = crop_for(sizes, unit, most)[0]
    named = encoder or largest_fitting(machine, wanted, unit)
    fits = fit(machine, named, wanted, unit, least=2 if recipe.architecture in ("deeplabv3plus", "upernet") else 1)
    crop, short, long = crop_for(sizes, unit, fits.crop)
    largest = max(min(size) for size in sizes)
    fitted = "a crop shows most of a scene, as in the paper" if short == crop else "photos keep their size"
    fitted += f"; 30 px of the largest photo become {30 * short / largest:.0f} px" if largest > 3 * short else ""
    least, most_steps = (2_000, 80_000) if gpus else (500, 2_000)  # steps that make sense on the machine
    steps = min(most_steps, max(least, 100 * round(PASSES * images / BATCH / 100)))
    passes = f"{BATCH * steps / images:.1f} passes over the unlabelled images of {PASSES} wanted" if images else "on the labels alone"
    every, length = max(50, steps // 10), length_of(steps)
    memory = f"about {fits.peak_gib:.1f} GiB of {machine.memory_gib:.0f} at the peak; --check measures it"
    restart = f"of the rate, with the pool: 0.3 in a short run, where in two runs that was 43.1 mIoU, not 40.7 (docs/measured.md), 1 from {LONG_RUN} steps on"
    dino = "dinov2-base" if named == "deit-base" else "dinov2-small"
    largest_deit = f"the largest DeiT for this memory; --encoder {dino}, all three parts over it, is not measured here and may be better"
    in_rounds = f", {fits.rounds} passes a step" if fits.rounds > 1 else ""
    # on a CPU, the loader processes take cores from the training itself
    workers = max(1, min(8, cores // gpus - 1)) if gpus else max(1, min(2, cores // 4))
    tree = {
        "data": {
            "crop": ([crop, crop], f"whole PatchShuffle blocks, as large as photos and machine allow, {most} at most"),
            "resize": ([long, short], fitted),
            "workers": (workers, "loader processes; more if --check says that training waits for data"),
        },
        "model": {
            "architecture": (recipe.architecture, "what fits the encoder"),
            "encoder": (named, "given with --encoder" if encoder else largest_deit if gpus else "a CPU is slow"),
        },
        "method": method_for(crop // unit, steps, fewest, shown) if images else {"teacher": ("none", "there are no unlabelled images")},
        "optimizer": {},
        "schedule": {
            "steps": (steps, f"{passes}, {least} to {most_steps} steps on this machine"),
            "floor": (0, "the learning rate falls to it"),
            "warm_up": (min(50, steps // 10), "spares the pretrained weights at the start"),
            **({"restart": (round(0.3 ** (1 - length), 2), restart)} if images else {}),
        },
        "evaluation": {
            "every": (every, "ten times a run"),
            "short_side": (short, "as in training; the last evaluation reads windows too and says which is better"),
        },
        "run": {
            "batch": ({"labeled": BATCH, "unlabeled": BATCH, "rounds": fits.rounds}, f"the paper's 8 + 8{in_rounds}: {memory}"),
            "checkpoint_every": (every, "a stopped run loses no more than this"),
        },
    }  # fmt: skip
    for section in ("optimizer", "model", "method"):
        keys = getattr(recipe, section).items()
        tree[section] |= {key: (value, f"as configs/ has it for {recipe.architecture}") for key, value in keys}
    if "pasa" in recipe.method:
        tree["method"].pop("pasa_view", None)
    if fits.checkpointing:
        tree["model"]["activation_checkpointing"] = (True, "blocks are computed twice, since the memory is small")
    if machine.bfloat16 and not gpus:
        tree["run"]["mixed_precision"] = ("bf16", "these cores multiply in bfloat16")
    return {name: with_notes(section) for name, section in tree.items()}


def with_notes(section: dict[str, tuple[Any, str]]) -> dict[str, Any]:
    """KEY: (value, reason) as KEY: value, and KEY.note: reason, where there is one."""
    pairs = (pair for key, (value, why) in section.items() for pair in ((key, value), (f"{key}.note", why)))
    return {name: each for name, each in pairs if each or not name.endswith(".note")}


class Fit(NamedTuple):
    """What fits into the memory of a machine."""

    crop: int  # its side, pixels
    rounds: int  # accumulation rounds of a step
    checkpointing: bool
    peak_gib: float  # the estimate


def fit(machine: Machine, encoder: str, crop: int, unit: int, least: int = 1) -> Fit:
    """The largest crop in whole `unit`s and the fewest rounds that fit; blocks are recomputed before the crop gets smaller.

    least: labelled images of a pass, at least.
    """
    name = encoder.rpartition("/")[2]
    networks, pair = next(peak for word, peak in PEAKS.items() if word in name)
    pair *= (DPT if "dino" in name else 1) * (1 if machine.gpus or machine.bfloat16 else 2)
    share = BATCH // max(count for count in (1, 2, 4, 8) if count <= max(1, machine.gpus))  # of one process, one for each GPU
    choices = [
        (side, rounds, checkpointing)
        for side in range(crop, 0, -unit)
        for checkpointing in (False, True)
        for rounds in (1, 2, 4, 8)
        if rounds == 1 or share // rounds >= least
    ]
    for side, rounds, checkpointing in choices:
        peak = networks + pair * (CHECKPOINTING if checkpointing else 1) * (side / 512) ** 2 * share / rounds
        if peak <= usable_gib(machine):
            break
    return Fit(side, rounds, checkpointing, peak)


def usable_gib(machine: Machine) -> float:
    """What a step may take: a GPU also holds its context and workspaces, the RAM other programs and the loader."""
    return (0.9 if machine.gpus else 0.7) * machine.memory_gib - 1


def largest_fitting(machine: Machine, crop: int, unit: int) -> str:
    """The name of the largest DeiT that trains on such a crop in two rounds at most; on a CPU the smallest."""
    fits = ((name, fit(machine, name, crop, unit)) for name in DEITS if machine.gpus)
    whole = (name for name, each in fits if each.crop == crop and each.rounds <= 2 and not each.checkpointing)
    return next(whole, DEITS[-1])


def method_for(block: int, steps: int, fewest: int, shown: float) -> dict[str, tuple[Any, str]]:
    """The section method, as key: (value, reason)."""
    length = length_of(steps)
    spread = round((1 - share_between(fewest, FEW_LABELS, MANY_LABELS)) * share_between(100 * shown, SINGLE_OBJECTS, WHOLE_SCENES), 2)
    thresholds = {
        "thresholds": ("per_class", "with one for all, small classes get no pseudo labels: 43.6 mIoU, not 45.0 (23 labels); " + CALIBRATED),
        "threshold_spread": (
            spread, f"1 while {FEW_LABELS} labelled images or fewer show the rarest class (here {fewest}) and an image shows {WHOLE_SCENES} % of"
            f" the classes (here {100 * shown:.0f}); 0 from {MANY_LABELS} images, or at {SINGLE_OBJECTS} %: one for all",
        ),
    }  # fmt: skip
    single = f"a labelled image shows {100 * shown:.0f} % of the classes: per-class thresholds then let wrong labels in (docs/measured.md)"
    many = f"{MANY_LABELS} images of every class or more: one for all"
    one_for_all = {"thresholds": ("fixed", f"{single if 100 * shown <= SINGLE_OBJECTS else many}; {CALIBRATED}")}
    alone = f"labels alone for half of the run, {LABELS_ONLY} steps at most: then the teacher knows what they tell, and a step takes a third"
    return {
        "block": (block, f"tokens a side: PatchShuffle moves {BLOCKS} x {BLOCKS} such blocks, as in the paper"),
        "burn_in": (min(steps // 2, LABELS_ONLY), alone),
        "threshold": (round(0.9 + 0.05 * length, 3), f"0.9 in a short run, the paper's 0.95 from {LONG_RUN} steps on"),
        **(thresholds if spread else one_for_all),
        "mix_probability": (round(1 - 0.5 * length, 2), f"every batch is mixed in a short run, the paper's half of them from {LONG_RUN} steps on"),
        "pasa_view": ("mixed", "PASA's pass sees what CutMix made of an image; the paper's, unmixed, has half of the gradient (docs/measured.md)"),
        "regularizer_weight": (
            round(0.1 ** (1 - length), 2), f"of NCR: 0.1 in a short run, where 1 costs points, the paper's 1 from {LONG_RUN} steps on",
        ),
        "ema": (round(min(0.999, max(0.99, 1 - 20 / steps)), 4), "a short run wants a teacher that follows faster than the paper's 0.999"),
        "ema_warm_up": (True, "so that the teacher leaves its random head behind"),
    }


def length_of(steps: int) -> float:
    """0 in a short run, 1 in one of the paper's kind."""
    return share_between(steps, SHORT_RUN, LONG_RUN)


def share_between(value: float, low: float, high: float) -> float:
    """0 up to `low`, 1 from `high` on, and between them as the logarithm."""
    return min(1.0, max(0.0, math.log(max(value, 1) / low) / math.log(high / low)))


def crop_for(sizes: Sequence[tuple[int, int]], unit: int, most: int) -> tuple[int, int, int]:
    """Side of the crop, and the shortest and longest side that photos are fitted into before they are cut.

    The crop is made of whole PatchShuffle blocks, `unit` for all of a side. Photos up to half as large again keep their size;
    larger ones are made as small as the crop, as in the paper, so that a crop shows most of a scene.
    """
    usual = sorted(min(size) for size in sizes)[len(sizes) // 2]
    crop = unit * max(1, min(usual, most) // unit)
    short = usual if crop <= usual <= 1.5 * crop else crop
    ratio = max(max(size) / min(size) for size in sizes)
    return crop, short, int(short * max(ratio, 2) + 0.5)
