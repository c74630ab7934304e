"""Mixing content between images of a batch (CutMix and others): the random draw is separate from its use.

A mix is a source map, (B, H, W) long: for every pixel the image that it comes from, counted through the unlabelled images
of the batch, then those that only give content, or the labelled ones; ERASED is no image. `gather` applies it to anything
with a batch dimension and that resolution, so that pixels, labels, teacher logits and confidence all move by one rule.
A new mix is a draw, a source map and a line in `MIXES`.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Callable

import numpy as np
import torch
from torch import Tensor

from ..config import IGNORE_INDEX
from ..randomness import Stream, numpy_generator, torch_generator, view_key
from .boxes import cutmix_box, small_box, square_box
from .pseudo import Pseudo, downsample_nearest

ERASED = -1
TILES = 4  # Mix/UnMix cuts an image into TILES x TILES

Draws = dict[str, Tensor]
Size = tuple[int, int] | torch.Size  # height, width of the images


@dataclass(frozen=True)
class MixContext:
    """Everything that a draw may depend on.

    positions: of this process's unlabelled images in the global batch.
    partner: for each of them the image that gives it content, counted through these images and those that only give.
    """

    seed: int
    step: int
    positions: list[int]
    partner: list[int]
    size: tuple[int, int]
    group: int
    probability: float
    classes: int
    labeled: int  # labelled images of this process
    view: int = 0  # which strong view; every one has its own draw
    grid: tuple[int, int] = (1, 1)  # rows and columns of PatchShuffle's blocks
    ratio: float = 0.7  # of them that are hidden

    def mixes(self) -> bool:
        """Whether the whole global batch is mixed, by `probability`."""
        return bool(self.numpy_generator(Stream.MIX_COIN).random() < self.probability)

    def numpy_generator(self, stream: Stream) -> np.random.Generator:
        """One for the whole global batch."""
        return numpy_generator(*view_key((self.seed, stream, self.step), self.view))

    def generators(self, stream: Stream) -> list[torch.Generator]:
        """One for every image."""
        return [torch_generator(*view_key((self.seed, stream, self.step, position), self.view)) for position in self.positions]

    def group_permutations(self, count: int) -> Tensor:
        """(B, count) long: `count` permutations inside every group, as local image numbers."""
        groups = []
        for first in range(0, len(self.positions), self.group):
            key = (self.seed, Stream.MIX_GROUP, self.step, self.positions[first])
            generator = torch_generator(*view_key(key, self.view))
            shuffled = [first + torch.randperm(self.group, generator=generator) for _ in range(count)]
            groups.append(torch.stack(shuffled, dim=1))
        return torch.cat(groups)


# ---- applying a source map


def gather(x: Tensor, source: Tensor, fill: float = 0) -> Tensor:
    """``x[source[b, i, j], ..., i, j]`` for every b, i, j, and `fill` where the source is ERASED.

    Args:
        x: (M, H, W) or (M, C, H, W) with M images to take from.
        source: (B, H, W) long, values ERASED .. M-1.
    """
    taken, erased = source.clamp(min=0), source == ERASED
    if x.dim() == 4:
        taken, erased = taken[:, None].expand(-1, x.shape[1], -1, -1), erased[:, None]
    return x.gather(0, taken).masked_fill(erased, fill)


def mix_pseudo(pseudo: Pseudo, source: Tensor, *, logits: bool = True, labels: Tensor | None = None) -> Pseudo:
    """The pseudo labels of the mixed images.

    Args:
        source: (B, H, W) at image resolution; every cell of the teacher's map takes the source of its first pixel.
        logits: False leaves the logits where they were, as the released code does: inside a box the student on one
            image is then compared with the teacher on another.
        labels: (B_l, H, W) long of the labelled images, if the map takes from them: labels at full confidence, but
            no logits of the teacher.
    """
    source = downsample_nearest(source, pseudo.label.shape[-2:])
    pool = pseudo if labels is None else append_labels(pseudo, downsample_nearest(labels, pseudo.label.shape[-2:]))
    return Pseudo(
        label=gather(pool.label, source, IGNORE_INDEX),
        taught=gather(pool.taught, source, IGNORE_INDEX),
        logits=gather(pool.logits, source) if logits else pseudo.logits[: len(source)],
        confidence=gather(pool.confidence, source),
        valid=gather(pool.valid, source, False),
        weight=None if pool.weight is None else gather(pool.weight, source),
    )


def append_labels(pseudo: Pseudo, labels: Tensor) -> Pseudo:
    """The pseudo labels of the unlabelled images, followed by the labels of the labelled ones, where these have one."""
    has = labels != IGNORE_INDEX
    return Pseudo(
        label=torch.cat([pseudo.label, labels]),
        taught=torch.cat([pseudo.taught, torch.full_like(labels, IGNORE_INDEX)]),
        logits=torch.cat([pseudo.logits, pseudo.logits.new_zeros(len(labels), *pseudo.logits.shape[1:])]),
        confidence=torch.cat([pseudo.confidence, has.to(pseudo.confidence.dtype)]),
        valid=torch.cat([pseudo.valid, has]),
        weight=None if pseudo.weight is None else torch.cat([pseudo.weight, pseudo.weight.new_ones(labels.shape)]),
    )


# ---- boxes: CutMix, CutOut


def draw_boxes(context: MixContext) -> Draws:
    """A box for every image, or none for any."""
    if context.mixes():
        boxes = torch.stack([cutmix_box(*context.size, generator) for generator in context.generators(Stream.MIX_BOX)])
    else:
        boxes = torch.zeros(len(context.positions), *context.size, dtype=torch.bool)
    return {"boxes": boxes, "partner": torch.tensor(context.partner)}


def draw_small_boxes(context: MixContext) -> Draws:
    """A box of 2 to 40 % of the area for every image, each with its own chance (UniMatch, CVPR 2023)."""
    boxes = torch.zeros(len(context.positions), *context.size, dtype=torch.bool)
    for box, generator in zip(boxes, context.generators(Stream.MIX_BOX)):
        if float(torch.rand((), generator=generator)) < context.probability:
            box.copy_(small_box(*context.size, generator))
    return {"boxes": boxes, "partner": torch.tensor(context.partner)}


def image_indices(pseudo: Pseudo) -> Tensor:
    """(B, 1, 1) long: 0 to B - 1."""
    return torch.arange(len(pseudo.label), device=pseudo.label.device)[:, None, None]


def identity(draws: Draws, pseudo: Pseudo, size: Size) -> Tensor:
    return image_indices(pseudo).expand(-1, *size)


def cutmix(draws: Draws, pseudo: Pseudo, size: Size) -> Tensor:
    """Inside its box an image shows its partner."""
    return torch.where(draws["boxes"], draws["partner"][:, None, None], image_indices(pseudo))


def cutout(draws: Draws, pseudo: Pseudo, size: Size) -> Tensor:
    """Inside its box an image shows nothing (in the released code CutOut is computed and never used)."""
    return torch.where(draws["boxes"], ERASED, image_indices(pseudo))


def draw_masks(context: MixContext) -> Draws:
    """Which blocks of every image are hidden, each with its own chance (MIC, CVPR 2023)."""
    shown = [torch.rand(context.grid, generator=generator) >= context.ratio for generator in context.generators(Stream.MIX_BOX)]
    return {"hidden": ~torch.stack(shown)}


def masked(draws: Draws, pseudo: Pseudo, size: Size) -> Tensor:
    """An image shows nothing where a block is hidden; what it is there, the student is to tell from the rest."""
    return torch.where(upsample_nearest(draws["hidden"], size), ERASED, image_indices(pseudo))


# ---- classes: ClassMix


def draw_priorities(context: MixContext) -> Draws:
    """In which order an image's classes are kept, and whether the batch is mixed at all."""
    priority = [torch.rand(context.classes, generator=generator) for generator in context.generators(Stream.MIX_BOX)]
    return {
        "priority": torch.stack(priority),
        "mixes": torch.tensor(context.mixes()),
        "partner": torch.tensor(context.partner),
    }


def classmix(draws: Draws, pseudo: Pseudo, size: Size, more: int = 1) -> Tensor:
    """An image keeps floor(n/2) + 1 of its n pseudo classes (released code) and shows its partner elsewhere.

    more: 0 = it keeps floor(n/2) of them (Olsson et al., WACV 2021).
    """
    priority = draws["priority"]
    present = torch.stack([(pseudo.label == k).flatten(1).any(dim=1) for k in range(priority.shape[1])], dim=1)
    wanted = present.sum(dim=1, keepdim=True) // 2 + more
    rank = priority.masked_fill(~present, -1).argsort(dim=1, descending=True).argsort(dim=1)
    kept = present & (rank < wanted)  # (B, K)
    none_present = ~present.any(dim=1)  # no confident pixel: the image stays as it is
    label = pseudo.label.clamp(max=priority.shape[1] - 1)
    keep = kept.gather(1, label.flatten(1)).view_as(label) & (pseudo.label != IGNORE_INDEX)
    keep = keep | none_present[:, None, None] | ~draws["mixes"]
    return torch.where(upsample_nearest(keep, size), image_indices(pseudo), draws["partner"][:, None, None])


def upsample_nearest(cells: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Nearest up-sampling of (B, h, w) to (B, H, W), whole pixels per cell: the inverse of `downsample_nearest`."""
    return cells.repeat_interleave(size[0] // cells.shape[1], 1).repeat_interleave(size[1] // cells.shape[2], 2)


# ---- tiles: Mix/UnMix


def draw_tiles(context: MixContext) -> Draws:
    """For every tile an independent permutation of the images of a group (MUM, CVPR 2022), always applied."""
    return {"tiles": context.group_permutations(TILES * TILES).unflatten(1, (TILES, TILES))}


def mixunmix(draws: Draws, pseudo: Pseudo, size: Size) -> Tensor:
    """Every tile of an image shows the same tile of one of its group; `unmix` undoes it on the features."""
    return upsample_nearest(draws["tiles"], size)


def unmix(x: Tensor, tiles: Tensor) -> Tensor:
    """Puts the tiles of features (B, C, h, w) back into the images they came from."""
    if x.shape[2] % tiles.shape[1] or x.shape[3] % tiles.shape[2]:
        raise ValueError(f"cannot cut {tuple(x.shape[2:])} features into {tuple(tiles.shape[1:])} tiles; take another crop")
    return gather(x, upsample_nearest(tiles.argsort(dim=0), x.shape[-2:]))


# ---- square boxes inside a group: PS-MT's CutMix, and iMAS's between easy and hard images


def draw_beta_boxes(context: MixContext) -> Draws:
    """Square boxes, always; one size for the batch, of Beta(4, 4), and one permutation in every group (PS-MT, CVPR 2022)."""
    side = math.sqrt(1 - context.numpy_generator(Stream.MIX_COIN).beta(4, 4))
    boxes = [square_box(context.size, side, generator) for generator in context.generators(Stream.MIX_BOX)]
    return {"boxes": torch.stack(boxes), "partner": context.group_permutations(1)[:, 0]}


def draw_hardness_boxes(context: MixContext) -> Draws:
    """Square boxes of 0.1 to 0.9 of the sides, one size and one chance for every group (iMAS, CVPR 2023)."""
    groups = torch.arange(len(context.positions)).view(-1, context.group)
    boxes, chances, generators = [], [], context.generators(Stream.MIX_BOX)
    for first in groups[:, 0].tolist():
        key = (context.seed, Stream.MIX_CHANCE, context.step, context.positions[first])
        chance, side = torch.rand(2, generator=torch_generator(*view_key(key, context.view))).tolist()
        chances.append(chance)
        boxes += [square_box(context.size, 0.1 + 0.8 * side, each, margin=16) for each in generators[first : first + context.group]]
    return {"boxes": torch.stack(boxes), "groups": groups, "chance": torch.tensor(chances)}


def hardness_mixes(draws: Draws, score: Tensor) -> Tensor:
    """(B,) bool: whether an image's group is mixed, which it is the likelier the easier (`score`, B) its images are."""
    mixes = draws["chance"] < score[draws["groups"]].mean(dim=1)
    return mixes.repeat_interleave(draws["groups"].shape[1])


def hardness_cutmix(draws: Draws, pseudo: Pseudo, size: Size) -> Tensor:
    """The easiest image of a group and its hardest exchange content, and so on inwards.

    How easy an image is: draws["score"] (B,) where the step measured it (iMAS), else how sure the teacher is of it.
    """
    score = draws["score"] if "score" in draws else image_confidence(pseudo)
    order = score[draws["groups"]].argsort(dim=1, stable=True)
    partner = torch.zeros_like(order).scatter(1, order, order.flip(1))
    partner = draws["groups"].gather(1, partner).flatten()
    boxes = draws["boxes"] & hardness_mixes(draws, score)[:, None, None]
    return torch.where(boxes, partner[:, None, None], image_indices(pseudo))


# ---- adaptive CutMix (AugSeg, CVPR 2023)


def draw_adaptive(context: MixContext) -> Draws:
    """Two boxes and a chance for every image; one size of box for the batch each, one permutation in every group."""
    lambdas = context.numpy_generator(Stream.MIX_COIN).beta((8, 4), (2, 4))
    generators = context.generators(Stream.MIX_BOX)
    boxes = [[square_box(context.size, math.sqrt(1 - lam), generator) for lam in lambdas] for generator in generators]
    chances = [torch.rand((), generator=generator) for generator in context.generators(Stream.MIX_CHANCE)]
    permutation = context.group_permutations(1)[:, 0]
    share = context.labeled * context.group // len(context.positions)  # labelled images that a group may take from
    return {
        "labeled_boxes": torch.stack([pair[0] for pair in boxes]),
        "boxes": torch.stack([pair[1] for pair in boxes]),
        "chance": torch.stack(chances),
        "partner": permutation,
        "labeled_partner": permutation // context.group * share + permutation % context.group % share,
    }


def image_confidence(pseudo: Pseudo) -> Tensor:
    """(B,): the mean over pixels of max p times (1 - entropy / ln K); 0 for a uniform teacher, 1 for a certain one."""
    log = pseudo.logits.log_softmax(dim=1)
    entropy = -(log.exp() * log).sum(dim=1) / math.log(log.shape[1])
    return (log.exp().amax(dim=1) * (1 - entropy)).flatten(1).mean(dim=1)


def adaptive_cutmix(draws: Draws, pseudo: Pseudo, size: Size) -> Tensor:
    """Images of low confidence first receive a box of a labelled one; then every image receives a box of such a copy."""
    own = image_indices(pseudo)
    pastes = draws["labeled_boxes"] & (draws["chance"] < 1 - image_confidence(pseudo))[:, None, None]
    copies = torch.where(pastes, len(own) + draws["labeled_partner"][:, None, None], own)
    return torch.where(draws["boxes"], copies[draws["partner"]], own)


# ---- the table


@dataclass(frozen=True)
class Mix:
    """A row of Table S3: what is drawn on the host, and the source map made of it.

    source: (draws, pseudo labels of the images themselves, image size) -> (B, H, W) long.
    """

    draw: Callable[[MixContext], Draws]
    source: Callable[[Draws, Pseudo, Size], Tensor]
    takes_labeled: bool = False
    keeps_labels: bool = False  # the pseudo labels stay those of the whole image, whatever the map says


MIXES: dict[str, Mix] = {
    "none": Mix(lambda context: {}, identity),
    "cutmix": Mix(draw_boxes, cutmix),
    "cutmix_small": Mix(draw_small_boxes, cutmix),
    "cutmix_beta": Mix(draw_beta_boxes, cutmix),
    "cutmix_hardness": Mix(draw_hardness_boxes, hardness_cutmix),
    "cutout": Mix(draw_boxes, cutout),
    "classmix": Mix(draw_priorities, classmix),
    "classmix_half": Mix(draw_priorities, partial(classmix, more=0)),
    "mixunmix": Mix(draw_tiles, mixunmix),
    "adaptive_cutmix": Mix(draw_adaptive, adaptive_cutmix, takes_labeled=True),
    "masked": Mix(draw_masks, masked, keeps_labels=True),
}
