"""The batch of a step, as one process sees it: tensors, and nothing about where they come from."""

from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Strong:
    """A strong view of the unlabelled images of a batch, and what is to be done to it.

    images: (B_u, 3, H, W) uint8, followed by those that only give content (see `mix_partners`); empty where `colours` are given.
    mix: tensors, the draw of the mix; which ones, its row in mixing.MIXES knows.
    orders: (B_u, r, c) long, the draw of PatchShuffle.
    colours: the draw of colours that the device is to give to the weak crops (see data/device_colour.py).
    """

    images: Tensor
    mix: dict[str, Tensor]
    orders: Tensor
    colours: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Batch:
    """One process's share of one step (one accumulation round of it). Crops are (H, W) = data.crop.

    labeled: (B_l, 3, H, W) uint8.    labels: (B_l, H, W), 255 = ignore.    labeled_valid: (B_l, H, W) bool.
    weak: (B_u, 3, H, W) uint8, a crop of every unlabelled image, followed by those that only give content.
    valid: (B_u, H, W) bool, False on padding; likewise.
    strong: the strong views, the same crops in other colours.
    seeds, labeled_seeds: one for each unlabelled and labelled image, for what is drawn for it on the device.
    channel_seeds: likewise, for `complementary_dropout`, 0 = the image keeps all channels; () = every image does.
    known: (B_u, H, W), like weak: labels of images that are labelled in part, 255 = none; None = no image is.
    replaced: ids of unlabelled images that could not be read; others took their places.
    labeled_colours, weak_colours: draws of colours that the device is to give to them.
    """

    step: int
    labeled: Tensor
    labels: Tensor
    labeled_valid: Tensor
    weak: Tensor
    valid: Tensor
    strong: tuple[Strong, ...]
    seeds: tuple[int, ...] = ()
    channel_seeds: tuple[int, ...] = ()
    known: Tensor | None = None
    replaced: tuple[str, ...] = ()
    labeled_seeds: tuple[int, ...] = ()
    labeled_colours: dict[str, Tensor] = field(default_factory=dict)
    weak_colours: dict[str, Tensor] = field(default_factory=dict)

    @property
    def unlabeled(self) -> int:
        """B_u, the unlabelled images to train on; others only give content to them."""
        return len(self.strong[0].orders) if self.strong else 0

    def map(self, function) -> "Batch":
        """The same batch with a function applied to every tensor."""
        return map_tensors(function, self)

    def pin_memory(self) -> "Batch":
        return self.map(lambda tensor: tensor.pin_memory())

    def on(self, device: torch.device, mean: Tensor, std: Tensor) -> "Batch":
        """On the device: images normalised, padding set to the mean colour, labels long.

        Args:
            mean, std: (3, 1, 1) in 0..1, on the device.
        """
        moved = self.map(lambda tensor: tensor.to(device, non_blocking=True))
        valid = moved.valid[:, None]
        return replace(
            moved,
            labeled=normalize(moved.labeled, mean, std) * moved.labeled_valid[:, None],
            labels=moved.labels.long(),
            known=None if moved.known is None else moved.known.long(),
            weak=normalize(moved.weak, mean, std) * valid,
            strong=tuple(replace(view, images=normalize(view.images, mean, std) * valid) for view in moved.strong),
        )


def map_tensors(function, value):
    """The same value with a function applied to every tensor that it holds."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, dict):
        return {name: map_tensors(function, each) for name, each in value.items()}
    if isinstance(value, tuple):
        return tuple(map_tensors(function, each) for each in value)
    if isinstance(value, (Batch, Strong)):
        return replace(value, **{f.name: map_tensors(function, getattr(value, f.name)) for f in fields(value)})
    return value


def normalize(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """(..., 3, H, W) uint8 to float, zero mean and unit deviation by the constants of the encoder's weights."""
    return (images.to(mean.dtype) / 255 - mean) / std
