"""Random boxes for mixing, (H, W) bool masks on the CPU, True inside the box."""

import math

import torch
from torch import Tensor


def cutmix_box(height: int, width: int, generator: torch.Generator | None = None) -> Tensor:
    """One random box of CutMix with half the area of the image, as a mask (released code, taken over from U2PL).

    The width is uniform among the whole numbers above half the image's and below all of it, the height makes half the
    area, the position is uniform. ``torch.where(box, images.roll(-1, 0), images)`` pastes it into a batch (B, C, H, W).

    Args:
        generator: of the CPU; None = torch's own.

    Returns:
        (H, W) bool on the CPU, True inside the box.
    """
    area = height * width / 2
    box_width = draw_integer(width // 2 + 1, max(width - 1, width // 2 + 1), generator)
    box_height = min(height, round(area / box_width))
    left = draw_integer(0, width - box_width, generator)
    top = draw_integer(0, height - box_height, generator)
    box = torch.zeros(height, width, dtype=torch.bool)
    box[top : top + box_height, left : left + box_width] = True
    return box


def small_box(height: int, width: int, generator: torch.Generator) -> Tensor:
    """(H, W) bool: 2 to 40 % of the area, 0.3 to 1 / 0.3 times as high as wide; drawn again until it lies inside."""
    area = draw_number(0.02, 0.4, generator) * height * width
    while True:
        ratio = draw_number(0.3, 1 / 0.3, generator)
        box_height, box_width = int(math.sqrt(area * ratio)), int(math.sqrt(area / ratio))
        top, left = draw_integer(0, height - 1, generator), draw_integer(0, width - 1, generator)
        if top + box_height <= height and left + box_width <= width:
            break
    box = torch.zeros(height, width, dtype=torch.bool)
    box[top : top + box_height, left : left + box_width] = True
    return box


def square_box(size: tuple[int, int], side: float, generator: torch.Generator, margin: int = 8) -> Tensor:
    """A box of `side` of both lengths around a uniform centre, cut off at the border; (H, W) bool.

    margin: no centre lies in the first 1 / margin of a length (8 in AugSeg and PS-MT, 16 in iMAS).
    """
    box = torch.zeros(size, dtype=torch.bool)
    spans = []
    for length in size:
        half = math.floor(length * side) // 2
        centre = draw_integer(length // margin, length - 1, generator)
        spans.append(slice(max(0, centre - half), min(length, centre + half)))
    box[tuple(spans)] = True
    return box


def draw_integer(least: int, most: int, generator: torch.Generator | None) -> int:
    """Uniform, both ends included."""
    return int(torch.randint(least, most + 1, (), generator=generator))


def draw_number(least: float, most: float, generator: torch.Generator) -> float:
    """Uniform."""
    return least + (most - least) * float(torch.rand((), generator=generator))
