"""Pseudo labels: what the teacher predicts for a batch of unlabelled images, as one value."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import IGNORE_INDEX

BINS = 20  # of the histogram of confidence, from 0 to 1
COUNTS = ("pseudo_labels", "confidences")  # the terms of a step that are counts, not losses


@dataclass(frozen=True)
class Pseudo:
    """The teacher's predictions for a batch, at the resolution of its logits. A mix moves all fields by the same map.

    label: (B, h, w) long, IGNORE_INDEX where the teacher is not confident, on padding, and where a mix erased the image.
    taught: (B, h, w) long, the label where the teacher's logits stand behind it, else IGNORE_INDEX (pixels pasted from a
        labelled image have a label, but no logits).
    logits: (B, K, h, w) float32 (or float64), without gradient.
    confidence: (B, h, w) float32, the largest softmax probability; 0 where not valid, 1 on labels of a labelled image.
    valid: (B, h, w) bool, False on padding and where a mix erased the image.
    weight: (B, h, w) float32, of the label in the cross-entropy; None = 1 everywhere.
    """

    label: Tensor
    taught: Tensor
    logits: Tensor
    confidence: Tensor
    valid: Tensor
    weight: Tensor | None = None

    def first(self, images: int) -> "Pseudo":
        """The predictions for the first images of the batch."""
        return Pseudo(**{name: None if value is None else value[:images] for name, value in vars(self).items()})


def pseudo_label(logits: Tensor, valid: Tensor, threshold: float | Tensor) -> Pseudo:
    """Turns teacher logits into pseudo labels (supplement, Algorithm 1, lines 11 to 13).

    Args:
        logits: (B, K, h, w) of the teacher on the weak view, any float type.
        valid: (B, H, W) bool, False on padding; H and W are multiples of h and w. The released code lets padding
            become a pseudo label; here it never does.
        threshold: a pixel counts if its confidence is strictly above; (K,) = by its predicted class.
    """
    logits = at_least_float32(logits.detach())
    confidence, label = logits.softmax(dim=1).max(dim=1)
    valid = downsample_nearest(valid, label.shape[-2:])
    label = label.masked_fill(~((confidence > required_confidence(label, threshold)) & valid), IGNORE_INDEX)
    return Pseudo(label=label, taught=label, logits=logits, confidence=confidence.masked_fill(~valid, 0.0), valid=valid)


def with_labels(pseudo: Pseudo, known: Tensor | None) -> Pseudo:
    """The same, with the labels of images that are labelled in part, (B, H, W) long, 255 = none, where they have one."""
    if known is None:
        return pseudo
    known = downsample_nearest(known, pseudo.label.shape[-2:])
    has = known != IGNORE_INDEX
    return replace(
        pseudo,
        label=torch.where(has, known, pseudo.label),
        taught=pseudo.taught.masked_fill(has, IGNORE_INDEX),
        confidence=pseudo.confidence.masked_fill(has, 1.0),
        weight=None if pseudo.weight is None else pseudo.weight.masked_fill(has, 1.0),
    )


def count_pseudo(pseudo: Pseudo) -> dict[str, Tensor]:
    """`confident`, the share of valid pixels that are pseudo labels; `pseudo_labels` (K,), how many are of each class; and
    `confidences` (BINS,), how many valid pixels have which confidence. All float32 on the device."""
    classes = pseudo.logits.shape[1]
    labels = histogram(pseudo.label.float(), classes, -0.5, classes - 0.5)
    confidences = histogram(pseudo.confidence.float().masked_fill(~pseudo.valid, -1), BINS, 0, 1)
    confident = labels.sum() / confidences.sum().clamp(min=1)
    return {"confident": confident, "pseudo_labels": labels, "confidences": confidences}


def histogram(values: Tensor, bins: int, low: float, high: float) -> Tensor:
    """(bins,) float32. histc neither waits for the device, as bincount does, nor counts what is outside: ignored labels, padding."""
    if not torch.are_deterministic_algorithms_enabled():
        return torch.histc(values, bins, min=low, max=high)
    torch.use_deterministic_algorithms(False)  # torch refuses histc on a GPU, but whole numbers add up to the same in any order
    try:
        return torch.histc(values, bins, min=low, max=high)
    finally:
        torch.use_deterministic_algorithms(True)


def required_confidence(label: Tensor, threshold: float | Tensor) -> float | Tensor:
    """The confidence that each pixel (B, h, w) must exceed: one for all, or (K,) by its predicted class."""
    return threshold.to(label.device)[label] if isinstance(threshold, Tensor) else threshold


def downsample_nearest(mask: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Nearest down-sampling of a (..., H, W) map to (h, w): cell i takes pixel i * H/h, as the released code does."""
    height, width = mask.shape[-2:]
    if height % size[0] or width % size[1]:
        raise ValueError(f"cannot downsample {height}x{width} to {size[0]}x{size[1]}: not a whole number of pixels per cell")
    return mask[..., :: height // size[0], :: width // size[1]]


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision as float32, for softmax and losses under autocast; float64 stays as it is."""
    return x if x.dtype == torch.float64 else x.float()


def resize_logits(logits: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """(B, K, h, w) to (B, K, H, W), bilinear, in float32 at least; those that have the size stay as they are."""
    if logits.shape[-2:] == tuple(size):
        return logits
    return F.interpolate(at_least_float32(logits), size=tuple(size), mode="bilinear", align_corners=False)
