"""A confidence threshold for every class, adapted to how confident the teacher is of it.

After FreeMatch (Wang et al., ICLR 2023): running means, relative to the largest of them. FreeMatch averages the
probability of a class over all samples; over pixels that would be the size of the class. Here it is the confidence where
the teacher predicts the class, so that a class is helped for being difficult and not for being small:

    m_c <- 0.99 m_c + 0.01 (mean confidence of the pixels predicted as c)      threshold_c = threshold * (m_c / max(m)) ** spread

FreeMatch's spread is 1; with 0 all thresholds are the same.
"""

from typing import Callable

import torch
from torch import Tensor, nn

from .pseudo import at_least_float32, downsample_nearest

MOMENTUM = 0.99  # of the running mean, at each step that predicts the class


class ClassThresholds(nn.Module):
    """The thresholds of a run. They are constant during a step, so all its processes and rounds use the same ones.

    The running means are a buffer, and so part of every checkpoint.
    """

    def __init__(self, classes: int, threshold: float, spread: float = 1.0):
        super().__init__()
        self.threshold, self.spread = threshold, spread
        self.register_buffer("confidence", torch.zeros(classes))  # running mean by class; 0 = not predicted yet
        self.accumulated: Tensor | None = None  # (2, K) of this step: summed confidence, pixels

    def current(self) -> Tensor:
        """(K,): what the confidence of a pixel must exceed; a class never predicted has the plain threshold."""
        relative = self.confidence / self.confidence.max().clamp(min=torch.finfo(self.confidence.dtype).tiny)
        return self.threshold * relative.where(self.confidence > 0, 1.0) ** self.spread

    def observe(self, teacher: Callable[[Tensor], Tensor], valid: Tensor) -> Callable[[Tensor], Tensor]:
        """The teacher, whose predictions for the first B images are accumulated; `valid` (B, H, W) is False on padding."""

        def observed(images: Tensor) -> Tensor:
            logits = teacher(images)
            self.accumulate(logits[: len(valid)], valid)
            return logits

        return observed

    @torch.no_grad()
    def accumulate(self, logits: Tensor, valid: Tensor) -> None:
        """Adds the confidence by predicted class of logits (B, K, h, w) to that of this step."""
        confidence, label = at_least_float32(logits.detach()).softmax(dim=1).max(dim=1)
        # float64: in float32 the mean of 2 million pixels of 0.94 comes out as 0.96
        confidence, counted = confidence.double(), downsample_nearest(valid, label.shape[-2:]).double()
        sums = counted.new_zeros(2, len(self.confidence))  # added to, since bincount would wait for the device
        for row, weight in zip(sums, (confidence * counted, counted)):
            row.index_add_(0, label.flatten(), weight.flatten())
        self.accumulated = sums if self.accumulated is None else self.accumulated + sums

    @torch.no_grad()
    def update(self, total: Callable[[Tensor], Tensor]) -> None:
        """Updates the means by what a step accumulated; `total` sums over the processes."""
        summed, pixels = total(self.accumulated)
        mean = (summed / pixels.clamp(min=1)).to(self.confidence.dtype)
        moved = torch.where(self.confidence > 0, torch.lerp(mean, self.confidence, MOMENTUM), mean)
        self.confidence.copy_(torch.where(pixels > 0, moved, self.confidence))
        self.accumulated = None
