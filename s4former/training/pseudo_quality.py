"""What the teacher is doing: of which classes it makes pseudo labels, how sure it is, and which classes it has dropped.

The counts stay on the device until a line of the log is due; one step adds two histograms of its pixels.
"""

from typing import Any, Callable, Sequence

import torch
from torch import Tensor

from ..config import Method
from ..evaluation.metrics import ConfusionMatrix, none_for_nan
from ..method.pseudo import BINS, COUNTS

LONG = 0.1  # a class is missed after this share of the run's steps without a pseudo label,
LEAST = 100  # but never before so many steps


class Tally:
    """The counts since the last line of the log, and when every class was last heard of.

    heard: (K,) long on the CPU, the last step of which a line of the log had a pseudo label of the class.
    """

    def __init__(self, classes: Sequence[str], device: torch.device | str = "cpu", first: int = 0):
        self.classes = classes
        self.labels = torch.zeros(len(classes), dtype=torch.long, device=device)
        self.confidence = torch.zeros(BINS, dtype=torch.long, device=device)
        self.heard = torch.full((len(classes),), first, dtype=torch.long)
        self.told: set[int] = set()  # classes that a warning was given for

    def take(self, terms: dict[str, Tensor], rounds: int = 1) -> None:
        """Takes the counts of a step, means over its accumulation rounds, out of its terms."""
        labels, confidence = (terms.pop(name, None) for name in COUNTS)
        if labels is not None:
            self.labels += (labels * rounds).round().long()
            self.confidence += (confidence * rounds).round().long()

    def report(self, step: int, total: Callable[[Tensor], Tensor] = lambda counts: counts) -> dict[str, Any]:
        """Reads the counts and begins again; empty if the teacher has not spoken. To be called by all processes.

        Args:
            total: sums a tensor over them.

        Returns:
            pixels: how many were looked at.    confident: the share of them that became pseudo labels.
            share: by class, the share of all pixels that became its pseudo labels.
            confidence: BINS shares of all pixels, from unsure to sure.
        """
        counts = total(torch.cat([self.labels, self.confidence])).cpu()
        self.labels, self.confidence = torch.zeros_like(self.labels), torch.zeros_like(self.confidence)
        labels, confidence = counts.split([len(self.classes), BINS])
        pixels = float(confidence.sum())
        if not pixels:
            return {}
        self.heard[labels > 0] = step
        shares = [round(share, 7) for share in (labels / pixels).tolist()]
        return {
            "pixels": int(pixels),
            "confident": round(float(labels.sum()) / pixels, 5),
            "share": dict(zip(self.classes, shares)),
            "confidence": [round(share, 5) for share in (confidence / pixels).tolist()],
        }

    def missed(self, step: int, steps: int) -> list[str]:
        """Classes that have had no pseudo label for long; each is named once until it has been heard of again."""
        silent = {index for index, last in enumerate(self.heard.tolist()) if step - last >= patience(steps)}
        fresh, self.told = sorted(silent - self.told), silent
        return [self.classes[index] for index in fresh]

    def state_dict(self) -> dict[str, Tensor]:
        return {"labels": self.labels, "confidence": self.confidence, "heard": self.heard}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, value in state.items():
            getattr(self, name).copy_(value)


def rightness(matrix: ConfusionMatrix, pixels: int, classes: Sequence[str]) -> dict[str, Any]:
    """What the pseudo labels of images whose truth is known are worth.

    Args:
        matrix: of the pixels of which the teacher is sure.
        pixels: how many labelled pixels there are in all.

    Returns:
        confident: the share of labelled pixels that it is sure of.    right: how many of those it is right about.
        share, right_by_class: the same by the class that the teacher names; None where it names none.
    """
    counts = matrix.checked_counts()
    named, hits = counts.sum(dim=0), counts.diagonal()
    return {
        "confident": float(named.sum() / pixels),
        "right": none_for_nan(float(hits.sum() / named.sum())),
        "share": dict(zip(classes, (named / pixels).tolist())),
        "right_by_class": dict(zip(classes, map(none_for_nan, (hits / named).tolist()))),
    }


def patience(steps: int) -> int:
    """For how many steps of a run of so many a class may be without pseudo labels before a word is said."""
    return max(LEAST, int(LONG * steps))


def warning(names: Sequence[str], silence: int, method: Method) -> str:
    """What to tell a user whose classes get no pseudo labels for a silence of so many steps, with what usually helps."""
    them = "it" if len(names) == 1 else "them"
    lower = f"a lower method.threshold (it is {method.threshold})"
    if method.thresholds != "per_class":
        lower = f"method.thresholds=per_class or {lower}"
    return (
        f"for {silence} steps no pixel has become a pseudo label of {', '.join(names)}: of {them} the student learns from"
        f" labelled images alone. What usually helps: {lower}, data.repeat_rare, by which labelled"
        f" images with {them} come up more often, and more labels that show {them}"
        " (python -m s4former.commands.pool ranks the unlabelled images)"
    )
