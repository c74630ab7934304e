"""What a step function may know of the run around it, beside its networks and its batch."""

from dataclasses import dataclass
from typing import Callable

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class StepContext:
    """The same on every process.

    predict: images (B, 3, H, W) to the student's own logits in eval mode, without gradient.
    """

    predict: Callable[[Tensor], Tensor]
