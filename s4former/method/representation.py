"""U2PL's representation of pixels: a second head beside the decoder, and what the teacher remembers of it by class."""

import copy
from typing import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH = 256  # channels of the head, and of what it returns


class RepresentationHead(nn.Module):
    """Feature maps that a decoder reads, finest first, to a vector for each cell of the finest, (B, WIDTH, h, w).

    Reduced to one width, enlarged and joined, then two 3x3 convolutions and a 1x1; the released code's without its dropout.
    """

    def __init__(self, channels: Sequence[int]):
        super().__init__()
        self.reductions = nn.ModuleList(convolution(inputs, 1) for inputs in channels)
        self.fusion = nn.Sequential(convolution(WIDTH * len(channels), 3), convolution(WIDTH, 3), nn.Conv2d(WIDTH, WIDTH, 1))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        maps = [reduce(x) for reduce, x in zip(self.reductions, features, strict=True)]
        size = maps[0].shape[-2:]
        return self.fusion(torch.cat([F.interpolate(x, size=size, mode="bilinear", align_corners=False) for x in maps], dim=1))


def convolution(inputs: int, kernel: int) -> nn.Sequential:
    layer = nn.Conv2d(inputs, WIDTH, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(WIDTH), nn.ReLU())


class Memory(nn.Module):
    """Features of the teacher by class, the newest `size`, and class centres; all of it buffers, so part of a checkpoint.

    head: the moving average of the student's representation head; in eval mode, without gradient.
    features: (K, size + 1, WIDTH), of pixels that a class is surely not at; the last row is never read.
    filled: (K,) long, how many of them there are.    place: (K,) long, where the next one goes.
    prototypes: (K, WIDTH), the class centres.    known: (K,) bool, whether a class has one yet.
    """

    def __init__(self, head: RepresentationHead, classes: int, size: int):
        super().__init__()
        self.head = copy.deepcopy(head).requires_grad_(False).eval()
        self.register_buffer("features", torch.zeros(classes, size + 1, WIDTH))
        self.register_buffer("filled", torch.zeros(classes, dtype=torch.long))
        self.register_buffer("place", torch.zeros(classes, dtype=torch.long))
        self.register_buffer("prototypes", torch.zeros(classes, WIDTH))
        self.register_buffer("known", torch.zeros(classes, dtype=torch.bool))

    @property
    def size(self) -> int:
        """Most features of a class."""
        return self.features.shape[1] - 1

    @torch.no_grad()
    def enqueue(self, features: Tensor, given: Tensor) -> None:
        """Remembers those of features (K, N, WIDTH) that are `given` (K, N bool), in place of the oldest; N is at most `size`."""
        slots = ((self.place[:, None] + given.cumsum(dim=1) - 1) % self.size).where(given, self.size)
        self.features.scatter_(1, slots[..., None].expand_as(features), features.to(self.features.dtype))
        self.features[:, -1] = 0
        count = given.sum(dim=1)
        self.place.copy_((self.place + count) % self.size)
        self.filled.copy_((self.filled + count).clamp(max=self.size))

    @torch.no_grad()
    def follow(self, centres: Tensor, present: Tensor, momentum: float) -> None:
        """Moves the prototypes of the classes that are `present` (K,) to their `centres` (K, WIDTH); a first one is copied."""
        moved = torch.where(self.known[:, None], torch.lerp(centres, self.prototypes, momentum), centres)
        self.prototypes.copy_(torch.where(present[:, None], moved, self.prototypes))
        self.known |= present
