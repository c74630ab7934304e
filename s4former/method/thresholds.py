"""Confidence thresholds that follow the teacher: one for every class, or one for all that its measured reliability chooses.

Per class, after FreeMatch (Wang et al., ICLR 2023): running means, relative to the largest of them. FreeMatch averages the
probability of a class over all samples; over pixels that would be the size of the class. Here it is the confidence where
the teacher predicts the class, so that a class is helped for being difficult and not for being small:

    m_c <- 0.99 m_c + 0.01 (mean confidence of the pixels predicted as c)      threshold_c = threshold * (m_c / max(m)) ** spread

FreeMatch's spread is 1; with 0 all thresholds are the same.

Calibrated, after CW-BASS v2 (Tarubinga, arXiv:2608.12773): labelled images held out from training tell which share of the pixels
above the threshold is right. While it is at least the threshold, that is the rule; else pixels weigh as much as their
confidence, and the threshold follows its running mean m:

    m <- 0.99 m + 0.01 (mean confidence)      threshold_t = min(max(0.95 m, 0.3), threshold)

(The released code has a second lower bound, 0.6 sigmoid(0.5 (confidence - 0.5)), which never exceeds 0.34: left out.)
"""

from dataclasses import replace
from typing import Callable

import torch
from torch import Tensor, nn

from ..config import Method
from .pseudo import Pseudo, at_least_float32, downsample_nearest

MOMENTUM = 0.99  # of the running mean, at each step that predicts the class
FLOOR_SCALE, LOWEST = 0.95, 0.3  # of the calibrated threshold: times the mean confidence, and never below


class Statistics(nn.Module):
    """Running means of what the teacher predicts for unlabelled images.

    They are constant during a step, so all its processes and rounds use the same ones, and buffers, so part of every checkpoint.
    """

    accumulated: Tensor | None = None  # sums over the pixels of this step

    @torch.no_grad()
    def accumulate(self, logits: Tensor, valid: Tensor) -> None:
        """Adds what is counted of logits (B, K, h, w) to that of this step."""
        probabilities = at_least_float32(logits.detach()).softmax(dim=1)
        # float64: in float32 the mean of 2 million pixels of 0.94 comes out as 0.96
        sums = self.sums(probabilities, downsample_nearest(valid, logits.shape[-2:]).double())
        self.accumulated = sums if self.accumulated is None else self.accumulated + sums

    @torch.no_grad()
    def update(self, total: Callable[[Tensor], Tensor]) -> None:
        """Moves the means by what a step accumulated; `total` sums over the processes."""
        self.move(total(self.accumulated))
        self.accumulated = None

    def sums(self, probabilities: Tensor, counted: Tensor) -> Tensor:
        """What a step adds up, float64; `counted` (B, h, w) float64 is 0 on padding."""
        raise NotImplementedError

    def move(self, summed: Tensor) -> None:
        """Moves the buffers by the sums of a step."""
        raise NotImplementedError

    def weigh(self, pseudo: Pseudo) -> Pseudo:
        """The pseudo labels with their weights."""
        return pseudo


class ClassThresholds(Statistics):
    """The thresholds of a run, one for each class."""

    def __init__(self, classes: int, threshold: float, spread: float = 1.0):
        super().__init__()
        self.threshold, self.spread = threshold, spread
        self.register_buffer("confidence", torch.zeros(classes))  # running mean by class; 0 = not predicted yet

    def current(self) -> Tensor:
        """(K,): what the confidence of a pixel must exceed; a class never predicted has the plain threshold."""
        relative = self.confidence / self.confidence.max().clamp(min=torch.finfo(self.confidence.dtype).tiny)
        return self.threshold * relative.where(self.confidence > 0, 1.0) ** self.spread

    def sums(self, probabilities: Tensor, counted: Tensor) -> Tensor:
        """(2, K): summed confidence and pixels by predicted class."""
        confidence, label = probabilities.max(dim=1)
        sums = counted.new_zeros(2, len(self.confidence))  # added to, since bincount would wait for the device
        for row, weight in zip(sums, (confidence.double() * counted, counted)):
            row.index_add_(0, label.flatten(), weight.flatten())
        return sums

    def move(self, summed: Tensor) -> None:
        total, pixels = summed
        mean = (total / pixels.clamp(min=1)).to(self.confidence.dtype)
        self.confidence.copy_(torch.where(pixels > 0, follow(self.confidence, mean), self.confidence))


class CalibratedThreshold(Statistics):
    """The threshold of a run, by whether the pixels above it are right as often as it asks for."""

    def __init__(self, classes: int, threshold: float):
        super().__init__()
        self.classes, self.threshold = classes, threshold
        self.register_buffer("confidence", torch.zeros(()))  # running mean; 0 = none yet
        self.register_buffer("right", torch.ones(()))  # share of the confident held-out pixels, as it was last measured

    def current(self) -> Tensor:
        """(K,), all the same: what the confidence of a pixel must exceed."""
        lowered = (FLOOR_SCALE * self.confidence).clamp(LOWEST, self.threshold).where(self.confidence > 0, self.threshold)
        return lowered.where(self.right < self.threshold, self.threshold).expand(self.classes)

    def sums(self, probabilities: Tensor, counted: Tensor) -> Tensor:
        """(2,): summed confidence, and pixels."""
        return torch.stack([(probabilities.amax(dim=1).double() * counted).sum(), counted.sum()])

    def move(self, summed: Tensor) -> None:
        self.confidence.copy_(follow(self.confidence, (summed[0] / summed[1].clamp(min=1)).to(self.confidence.dtype)))

    def weigh(self, pseudo: Pseudo) -> Pseudo:
        return replace(pseudo, weight=pseudo.confidence.where(self.right < self.threshold, 1.0))


def follow(average: Tensor, value: Tensor, momentum: float = MOMENTUM) -> Tensor:
    """A running mean moved by a value, which it takes over as long as it is 0."""
    return torch.where(average > 0, torch.lerp(value, average, momentum), value)


def build_thresholds(method: Method, classes: int) -> ClassThresholds | CalibratedThreshold | None:
    """Those of `method.thresholds`; None = `method.threshold` for every class, always."""
    if method.thresholds == "fixed" or method.teacher == "none":
        return None
    if method.thresholds == "calibrated":
        return CalibratedThreshold(classes, method.threshold)
    return ClassThresholds(classes, method.threshold, method.threshold_spread)
