"""Which encoder, crop and number of accumulation rounds fit into the memory of a machine, by an estimate of a step's peak."""

from dataclasses import dataclass

from ..training.machine import Machine

BATCH = 8  # labelled images of a step, and as many unlabelled ones: the paper's
# GiB in bfloat16, computed by `s4former benchmark memory` for the recipes of proposal.py: networks, gradients and optimizer,
# and of each labelled image of 512 x 512 px with an unlabelled one. By a word in the name of the encoder; the first that fits.
PEAKS = {
    "tiny": (0.1, 0.33), "small": (0.5, 0.6), "large": (5.5, 2.9), "shapes": (0.1, 0.5), "resnet": (1.0, 1.5),
    "mit-b0": (0.1, 0.6), "mit-b1": (0.3, 0.9), "mit-b2": (0.6, 1.5), "mit-b": (1.3, 2.5), "": (1.5, 1.06),
}  # fmt: skip
DPT = 1.7  # times the second, for the head over a DINO
CHECKPOINTING = 0.5  # what is left of the second with model.activation_checkpointing


@dataclass(frozen=True)
class Fit:
    """crop: its side, pixels. rounds: accumulation rounds of a step. peak_gib: the estimate for them, of `usable_gib`."""

    crop: int
    rounds: int
    checkpointing: bool
    peak_gib: float
    usable_gib: float


def usable_gib(machine: Machine) -> float:
    """What a step may take: a GPU also holds its context and workspaces, the RAM other programs and the loader."""
    return 0.9 * machine.memory_gib - 1 if machine.gpus else 0.7 * machine.memory_gib - 1


def processes_of(machine: Machine) -> int:
    """One for each GPU, as many as the batch can be divided over."""
    return max(count for count in (1, 2, 4, 8) if count <= max(1, machine.gpus))


def fit(machine: Machine, encoder: str, crop: int, unit: int, least: int = 1) -> Fit:
    """The largest crop in whole `unit`s and the fewest rounds that fit; blocks are recomputed before the crop gets smaller.

    least: labelled images of a pass, at least.
    """
    networks, pair = next(peak for word, peak in PEAKS.items() if word in encoder)
    pair *= (DPT if "dino" in encoder else 1) * (1 if machine.gpus or machine.bfloat16 else 2)
    share, usable = BATCH // processes_of(machine), usable_gib(machine)
    choices = [
        (side, rounds, checkpointing)
        for side in range(crop, 0, -unit)
        for checkpointing in (False, True)
        for rounds in (1, 2, 4, 8)
        if rounds == 1 or share // rounds >= least
    ]
    for side, rounds, checkpointing in choices:
        peak = networks + pair * (CHECKPOINTING if checkpointing else 1) * (side / 512) ** 2 * share / rounds
        if peak <= usable:
            break
    return Fit(side, rounds, checkpointing, peak, usable)
