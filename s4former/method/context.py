"""What a step function may know of the run around it, beside its networks and its batch."""

from dataclasses import dataclass
from typing import Callable

from torch import Tensor

from .pseudo import Pseudo

Label = Callable[[Tensor, Tensor], Pseudo]  # logits (B, K, h, w), valid (B, H, W)


@dataclass(frozen=True, kw_only=True)
class StepContext:
    """Of one process.

    label: makes pseudo labels of logits; None = `pseudo_label` with `method.threshold`.
    predict: images (B, 3, H, W) to the student's own logits in eval mode, without gradient; None = nothing asks for them.
    progress: the share of the run's steps that are done.
    seed: of what all processes draw alike in this step.
    processes: how many there are.
    average: of numbers over the processes (and rounds) of a step, for `method.normalizer` = "valid".
    gather: a tensor of every process, of equal shapes, joined along the first dimension; without gradient.
    """

    label: Label | None = None
    predict: Callable[[Tensor], Tensor] | None = None
    progress: float = 0.0
    seed: int = 0
    processes: int = 1
    average: Callable[[Tensor], Tensor] = lambda numbers: numbers
    gather: Callable[[Tensor], Tensor] = lambda tensor: tensor
