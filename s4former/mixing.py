"""Mixing content between images of a batch: the draw apart from the use.

A mix is a source map, (B, H, W) long: for every pixel the image of the batch that it comes from. `gather` applies it
to anything that has a batch dimension and that resolution, so pixels, labels, teacher logits and confidence cannot be
moved by different rules.
"""

import torch
from torch import Tensor

from .pseudo import Pseudo, shrink


def cutmix_box(height: int, width: int, generator: torch.Generator) -> Tensor:
    """A box of half the area, (H, W) bool on the CPU (released code, taken over from U2PL).

    Width uniform among the whole numbers above half the image's and below all of it, height to make half the area,
    place uniform.
    """
    area = height * width / 2
    box_width = draw_integer(width // 2 + 1, max(width - 1, width // 2 + 1), generator)
    box_height = min(height, round(area / box_width))
    left = draw_integer(0, width - box_width, generator)
    top = draw_integer(0, height - box_height, generator)
    box = torch.zeros(height, width, dtype=torch.bool)
    box[top : top + box_height, left : left + box_width] = True
    return box


def draw_integer(least: int, most: int, generator: torch.Generator) -> int:
    """Uniform, both ends included."""
    return int(torch.randint(least, most + 1, (), generator=generator))


def partners(batch: int, group: int) -> Tensor:
    """(B,) long: the next image of the same group of consecutive images, cyclic."""
    own = torch.arange(batch)
    return own - own % group + (own + 1) % group


def mix_source(boxes: Tensor, partner: Tensor) -> Tensor:
    """CutMix as a source map: inside its box an image shows its partner.

    Args:
        boxes: (B, H, W) bool; an empty box leaves the image alone.
        partner: (B,) long.
    """
    own = torch.arange(len(boxes), device=boxes.device)
    return torch.where(boxes, partner.to(boxes.device)[:, None, None], own[:, None, None])


def gather(x: Tensor, source: Tensor) -> Tensor:
    """``x[source[b, i, j], ..., i, j]`` for every b, i, j; `x` is (B, H, W) or (B, C, H, W) at the map's resolution."""
    if x.dim() == 4:
        source = source[:, None].expand(-1, x.shape[1], -1, -1)
    return x.gather(0, source)


def mix_pseudo(pseudo: Pseudo, source: Tensor, *, logits: bool = True) -> Pseudo:
    """The teacher's word on the mixed images.

    Args:
        source: (B, H, W) at image resolution; every cell of the teacher's map takes the source of its first pixel.
        logits: False leaves the logits where they were, as the released code does: inside a box the student on one
            image is then compared with the teacher on another.
    """
    source = shrink(source, pseudo.label.shape[-2:])
    return Pseudo(
        label=gather(pseudo.label, source),
        logits=gather(pseudo.logits, source) if logits else pseudo.logits,
        confidence=gather(pseudo.confidence, source),
    )
