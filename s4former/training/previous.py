"""Previous students that label the strong views too (`method.previous`).

PrevMatch (Shin et al., arXiv:2405.20610). It keeps the student after every epoch with a new best score on the evaluation images;
here the student is kept after every 1/20 of the run, since those images are not to be trained on.
"""

from dataclasses import replace
from typing import Callable

from torch import Tensor, nn

from ..config import Config
from ..method.context import Label
from ..method.pseudo import Pseudo, pseudo_label
from ..randomness import Stream, numpy_generator
from .engine import Teacher

SNAPSHOTS = 20  # of a run, of which the newest `method.previous` are kept
MOST = 3  # that label a step
CONFIDENCE = 0.9  # above which their pixel is a label


class PreviousStudents(nn.Module):
    """Snapshots of the student. Which there are, and which label a step, follows from the step and the seed."""

    def __init__(self, network: nn.Module, config: Config):
        super().__init__()
        self.networks = nn.ModuleList(Teacher(network) for _ in range(config.method.previous))
        self.every, self.first = max(1, config.schedule.steps // SNAPSHOTS), config.method.burn_in
        self.seed = config.run.seed
        self.chosen: list[tuple[int, float]] = []  # (snapshot, weight) of this step

    def begin(self, network: nn.Module, step: int) -> None:
        """Takes a snapshot of the network where one is due before a step, and draws one to three with weights of Dirichlet(1)."""
        taken, early = divmod(step - self.first, self.every)
        kept = len(self.networks)
        if taken > 0 and not early:
            self.networks[(taken - 1) % kept].follow(network, 0.0)
        rng = numpy_generator(self.seed, Stream.PREVIOUS, step)
        count = min(int(rng.integers(1, MOST + 1)), taken, kept)
        indices = rng.choice(min(taken, kept), count, replace=False) if count > 0 else []
        self.chosen = list(zip(map(int, indices), rng.dirichlet([1.0] * count).tolist() if count > 0 else []))

    def forward(self, images: Tensor) -> Tensor:
        """The weighted mean of the logits, (B, K, h, w)."""
        return sum(weight * self.networks[index](images) for index, weight in self.chosen)

    def guide(self, labeler: Callable[[Tensor], Tensor], label: Label) -> tuple[Callable[[Tensor], Tensor], Label]:
        """The labeler, which asks the previous students as well; and the pseudo labels of its logits with theirs."""
        if not self.chosen:
            return labeler, label
        logits_of_previous: list[Tensor] = []

        def of_both(images: Tensor) -> Tensor:
            logits_of_previous[:] = [self(images)]
            return labeler(images)

        def labeled(logits: Tensor, valid: Tensor) -> Pseudo:
            return replace(label(logits, valid), previous=pseudo_label(logits_of_previous[0], valid, CONFIDENCE).label)

        return of_both, labeled
