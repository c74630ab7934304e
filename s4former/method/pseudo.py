"""The vocabulary of the teacher: what it says of a batch of unlabelled images, as one value."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import IGNORE_INDEX

BINS = 20  # of the histogram of confidence, from 0 to 1
COUNTS = ("pseudo_labels", "confidences")  # the terms of a step that are counts, not losses


@dataclass(frozen=True)
class Pseudo:
    """The teacher's word on a batch, at the resolution of its logits. A mix moves all fields with the same box.

    label: (B, h, w) long, IGNORE_INDEX where the teacher is unsure or the pixel is padding.
    taught: (B, h, w) long, the label where the teacher's logits stand behind it, IGNORE_INDEX where they do not (pixels
        pasted from a labelled image have a label, but the teacher said nothing of them).
    logits: (B, K, h, w) float32 (or float64), without gradient.
    confidence: (B, h, w) float32, the largest softmax probability, 0 on padding.
    """

    label: Tensor
    taught: Tensor
    logits: Tensor
    confidence: Tensor

    @property
    def valid(self) -> Tensor:
        """(B, h, w) bool: False on padding, and where a mix has erased something."""
        return self.confidence > 0

    def first(self, images: int) -> "Pseudo":
        """The word on the first images of the batch."""
        return Pseudo(self.label[:images], self.taught[:images], self.logits[:images], self.confidence[:images])


def pseudo_label(logits: Tensor, valid: Tensor, threshold: float | Tensor) -> Pseudo:
    """Turns teacher logits into pseudo labels (supplement, Algorithm 1, lines 11 to 13).

    Args:
        logits: (B, K, h, w) of the teacher on the weak view, any float type.
        valid: (B, H, W) bool, False on padding; H and W are multiples of h and w. The released code lets padding
            become a pseudo label; here it never does.
        threshold: a pixel counts if its confidence is strictly above; (K,) = by the class it is said to be.
    """
    logits = at_least_float32(logits.detach())
    confidence, label = logits.softmax(dim=1).max(dim=1)
    valid = downsample_nearest(valid, label.shape[-2:])
    label = label.masked_fill(~((confidence > required_confidence(label, threshold)) & valid), IGNORE_INDEX)
    return Pseudo(label=label, taught=label, logits=logits, confidence=confidence.masked_fill(~valid, 0.0))


def count_pseudo(pseudo: Pseudo) -> dict[str, Tensor]:
    """`confident`, the share of valid pixels that are pseudo labels; `pseudo_labels` (K,), how many are of each class; and
    `confidences` (BINS,), how many valid pixels have which confidence. All float32 on the device."""
    classes = pseudo.logits.shape[1]
    # histc neither waits for the device, as bincount does, nor counts what is outside: ignored labels, padding
    labels = torch.histc(pseudo.label.float(), classes, min=-0.5, max=classes - 0.5)
    sure = pseudo.confidence.float()
    confidences = torch.histc(sure.masked_fill(sure == 0, -1), BINS, min=0, max=1)
    confident = labels.sum() / confidences.sum().clamp(min=1)
    return {"confident": confident, "pseudo_labels": labels, "confidences": confidences}


def required_confidence(label: Tensor, threshold: float | Tensor) -> float | Tensor:
    """What the confidence of each pixel has to exceed, by the class it is said to be if there is a threshold for each."""
    return threshold.to(label.device)[label] if isinstance(threshold, Tensor) else threshold


def downsample_nearest(mask: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Nearest down-sampling of a (..., H, W) map to (h, w): cell i takes pixel i * H/h, as the released code does."""
    height, width = mask.shape[-2:]
    if height % size[0] or width % size[1]:
        raise ValueError(f"cannot downsample_nearest {height}x{width} to {size[0]}x{size[1]}: not a whole number of pixels per cell")
    return mask[..., :: height // size[0], :: width // size[1]]


def at_least_float32(x: Tensor) -> Tensor:
    """Softmax and losses are not for half precision, whatever autocast says; float64 stays what it is."""
    return x if x.dtype == torch.float64 else x.float()


def resize_logits(logits: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """(B, K, h, w) to (B, K, H, W), bilinear, in float32 at least."""
    logits = at_least_float32(logits)
    if logits.shape[-2:] == tuple(size):
        return logits
    return F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)
