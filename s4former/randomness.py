"""Every random number of a run, as a function of its key.

A key is a tuple of whole numbers such as (seed, stream, step, position). The same key gives the same numbers on every
machine, whatever was drawn before, in whichever process: that is what makes a step replayable and a resume exact.
"""

from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # it takes seconds, and what draws with numpy does not need it
    import torch


class Stream(IntEnum):
    """What a number is drawn for; part of every key, so that no two uses share their numbers."""

    LABELED_ORDER = 0
    UNLABELED_ORDER = 1
    LABELED_IMAGE = 2
    UNLABELED_IMAGE = 3
    WEAK_COLOUR = 4
    STRONG_COLOUR = 5
    REPLACEMENT = 6
    MIX_COIN = 7
    MIX_BOX = 8
    SHUFFLE = 9
    DROPOUT = 10
    INITIALIZATION = 11
    MIX_GROUP = 12
    MIX_CHANCE = 13
    SECOND_ORDER = 14
    PASA_NOISE = 15
    CHANNELS = 16
    LABELED_NOISE = 17
    SHARED = 18
    HELD_OUT = 20
    CALIBRATION_ORDER = 21
    CALIBRATION_IMAGE = 22


def view_key(key: tuple[int, ...], view: int) -> tuple[int, ...]:
    """The key of a strong view; the first view has the plain key, so its numbers do not depend on how many there are."""
    return (*key, view) if view else key


def numpy_generator(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


def torch_seed(*key: int) -> int:
    """A seed for torch, below 2^63."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))


def torch_generator(*key: int) -> "torch.Generator":
    """A generator on the CPU."""
    import torch

    return torch.Generator().manual_seed(torch_seed(*key))
