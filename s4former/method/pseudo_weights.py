"""Rules for the weight of a pseudo label, and for the share of each class among them, of other semi-supervised systems.

Both follow running means over pixels, which begin with the values of the first step.
"""

from dataclasses import replace

import torch
from torch import Tensor

from ..config import IGNORE_INDEX, Method
from .pseudo import Pseudo, at_least_float32
from .thresholds import Statistics, follow

WIDTH = 2.0  # SoftMatch's n
EPSILON = 1e-6  # added to the shares of distribution alignment


class SoftWeights(Statistics):
    """Every pixel is a pseudo label, of weight exp(-max(mu - c, 0)^2 / (2 sigma^2 / n^2)) (SoftMatch, Chen et al., ICLR 2023).

    mu and sigma^2 are the running mean and variance of the confidence c. Regularisers keep to the pixels above the threshold;
    SoftMatch's uniform alignment is left out, since over pixels it would make all classes equally large.
    """

    def __init__(self, classes: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("variance", torch.zeros(()))

    def sums(self, probabilities: Tensor, counted: Tensor) -> Tensor:
        """(3,): of the confidence, of its square, and pixels."""
        confidence = probabilities.amax(dim=1).double()
        return torch.stack([(each * counted).sum() for each in (confidence, confidence.square(), torch.ones_like(confidence))])

    def move(self, summed: Tensor) -> None:
        mean, square = summed[:2] / summed[2].clamp(min=1)
        self.mean.copy_(follow(self.mean, mean.to(self.mean.dtype)))
        self.variance.copy_(follow(self.variance, (square - mean.square()).to(self.mean.dtype)))

    def weigh(self, pseudo: Pseudo) -> Pseudo:
        lack = (self.mean - pseudo.confidence).clamp(min=0)
        spread = (self.variance / WIDTH**2).clamp(min=torch.finfo(self.variance.dtype).tiny)
        label = pseudo.logits.argmax(dim=1).masked_fill(~pseudo.valid, IGNORE_INDEX)
        return replace(pseudo, label=label, weight=torch.exp(-lack.square() / (2 * spread)))


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


# By method.pseudo_weight; `none` has no entry.
PSEUDO_WEIGHTS = {"softmatch": SoftWeights, "distribution_alignment": DistributionAlignment}


def build_pseudo_weights(method: Method, classes: int) -> Statistics | None:
    """That of `method.pseudo_weight`, if it has one and there are pseudo labels."""
    return None if method.pseudo_weight == "none" or method.teacher == "none" else PSEUDO_WEIGHTS[method.pseudo_weight](classes)
