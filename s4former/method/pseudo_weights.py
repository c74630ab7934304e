"""The share of each class among the pseudo labels, moved to that among the labels."""

import torch
from torch import Tensor

from ..config import Method
from .pseudo import at_least_float32
from .thresholds import Statistics, follow

EPSILON = 1e-6  # added to the shares


class DistributionAlignment(Statistics):
    """Probabilities times (share of a class among the labels) / (its running mean over unlabelled pixels), renormalised.

    ReMixMatch (Berthelot et al., ICLR 2020). Written as logits plus the logarithm of that ratio.
    """

    def __init__(self, classes: int):
        super().__init__()
        self.register_buffer("labeled", torch.zeros(classes))  # share of each class among the pixels of all labels; set once
        self.register_buffer("predicted", torch.zeros(classes))

    def sums(self, probabilities: Tensor, counted: Tensor) -> Tensor:
        """(K + 1,): of the probability of each class, and pixels."""
        return torch.cat([(probabilities.double() * counted[:, None]).sum(dim=(0, 2, 3)), counted.sum()[None]])

    def move(self, summed: Tensor) -> None:
        self.predicted.copy_(follow(self.predicted, (summed[:-1] / summed[-1].clamp(min=1)).to(self.predicted.dtype)))

    def align(self, logits: Tensor) -> Tensor:
        ratio = ((self.labeled + EPSILON) / (self.predicted + EPSILON)).log().where(self.predicted.sum() > 0, 0.0)
        return at_least_float32(logits) + ratio[:, None, None]


def build_pseudo_weights(method: Method, classes: int) -> DistributionAlignment | None:
    """That of `method.pseudo_weight`, if it has one and there are pseudo labels."""
    return None if method.pseudo_weight == "none" or method.teacher == "none" else DistributionAlignment(classes)
