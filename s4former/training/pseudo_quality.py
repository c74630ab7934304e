"""Pseudo labels as they are made: of which classes, at which confidence, and which classes get none any more.

The counts stay on the device until they are logged; one step adds two histograms of its pixels.
"""

from typing import Any, Callable, Sequence

import torch
from torch import Tensor

from ..config import Method
from ..errors import join_first
from ..evaluation.metrics import ConfusionMatrix, none_for_nan
from ..method.pseudo import BINS, COUNTS

MISSING_SHARE = 0.1  # a class is missing after this share of the run's steps without a pseudo label,
LEAST = 100  # but never before so many steps


class PseudoLabelCounts:
    """The counts since they were last logged, and when each class last had a pseudo label.

    last_step: (K,) long on the CPU, the last logged step at which the class had a pseudo label.
    """

    def __init__(self, classes: Sequence[str], device: torch.device | str = "cpu", first: int = 0):
        self.classes = classes
        self.labels = torch.zeros(len(classes), dtype=torch.long, device=device)
        self.confidence = torch.zeros(BINS, dtype=torch.long, device=device)
        self.last_step = torch.full((len(classes),), first, dtype=torch.long)
        self.warned = torch.zeros(len(classes), dtype=torch.bool)
        self.latest: Tensor | None = None  # (2,) of the last step that was counted: pseudo labels, valid pixels

    def update(self, terms: dict[str, Tensor], rounds: int = 1) -> None:
        """Removes the counts, means over the accumulation rounds of a step, from its terms and adds them."""
        labels, confidence = (terms.pop(name, None) for name in COUNTS)
        if labels is not None:
            self.latest = torch.stack([labels.sum(), confidence.sum()])
            self.labels += (labels * rounds).round().long()
            self.confidence += (confidence * rounds).round().long()

    def compute(self, step: int, total: Callable[[Tensor], Tensor] = lambda counts: counts) -> dict[str, Any]:
        """Reads and resets the counts; empty if there were none. For all processes, over which `total` sums a tensor.

        Returns:
            pixels: how many were counted.    confident: the share of them that became pseudo labels.
            share: by class, the share of all pixels that became its pseudo labels.
            confidence: BINS shares of all pixels, from unsure to sure.
        """
        counts = total(torch.cat([self.labels, self.confidence])).cpu()
        self.labels, self.confidence = torch.zeros_like(self.labels), torch.zeros_like(self.confidence)
        labels, confidence = counts.split([len(self.classes), BINS])
        pixels = float(confidence.sum())
        if not pixels:
            return {}
        self.last_step[labels > 0] = step
        shares = [round(share, 7) for share in (labels / pixels).tolist()]
        return {
            "pixels": int(pixels),
            "confident": round(float(labels.sum()) / pixels, 5),
            "share": dict(zip(self.classes, shares)),
            "confidence": [round(share, 5) for share in (confidence / pixels).tolist()],
        }

    def join(self, total: Callable[[Tensor], Tensor], main: bool) -> None:
        """The main process takes over what the others counted."""
        for counts in (self.labels, self.confidence):
            counts.copy_(total(counts) * main)

    def newly_missing(self, step: int, steps: int) -> list[str]:
        """Classes without a pseudo label for `patience(steps)` steps; each once until it has one again."""
        missing = step - self.last_step >= patience(steps)
        new, self.warned = missing & ~self.warned, missing
        return [self.classes[index] for index in new.nonzero().flatten().tolist()]

    def state_dict(self) -> dict[str, Tensor]:
        return {"labels": self.labels, "confidence": self.confidence, "heard": self.last_step, "warned": self.warned}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, value in state.items():
            self.state_dict()[name].copy_(value)


def pseudo_label_accuracy(matrix: ConfusionMatrix, pixels: int, classes: Sequence[str]) -> dict[str, Any]:
    """How many pseudo labels of images with masks are right.

    Args:
        matrix: of the pixels whose confidence is above the threshold.
        pixels: how many labelled pixels there are in all.

    Returns:
        confident: the share of labelled pixels that are above it.    right: the share of those that are right.
        share, right_by_class: the same by predicted class; None where it is never predicted.
    """
    counts = matrix.checked_counts()
    predicted, right = counts.sum(dim=0), counts.diagonal()
    return {
        "confident": float(predicted.sum() / pixels),
        "right": none_for_nan(float(right.sum() / predicted.sum())),
        "share": dict(zip(classes, (predicted / pixels).tolist())),
        "right_by_class": dict(zip(classes, map(none_for_nan, (right / predicted).tolist()))),
    }


def patience(steps: int) -> int:
    """For how many of a run's steps a class may be without pseudo labels before there is a warning."""
    return max(LEAST, int(MISSING_SHARE * steps))


def warning(classes: Sequence[str], steps: int, method: Method) -> str:
    """The warning for classes that are missing in a run of so many steps, with what may help."""
    return (
        f"for {patience(steps)} steps no pixel has become a pseudo label of {join_first(classes)}, of which the student"
        " learns from labelled images alone. What may help: more labels that show the class (s4former pool ranks images),"
        f" data.repeat_rare, a lower method.threshold (it is {method.threshold}), and where an image shows most of the classes"
        " method.thresholds=per_class"
    )
