"""Batches from loader workers, which neither Ctrl-C nor the end of one of them takes by surprise."""

import multiprocessing
import signal
from typing import Iterator

from torch.utils.data import DataLoader

from ..errors import DataError
from ..method.batch import Batch
from .batches import StepDataset

SIGTERM_GRACE = 120  # seconds that a loader worker outlives a SIGTERM
EXIT_REASONS = {
    "SIGKILL": "as a system that runs out of memory ends processes; take a lower",
    "SIGBUS": "as happens where shared memory (/dev/shm) is too small, as in containers; enlarge it, or take a lower",
}


def step_loader(steps: StepDataset, first: int, last: int, *, workers: int, pin_memory: bool) -> Iterator[Batch]:
    """The batches of steps `first` .. `last` - 1, round after round.

    Raises:
        DataError: a labelled image cannot be read, or a loader worker died.
    """
    loader = DataLoader(
        steps,
        sampler=[(step, round_) for step in range(first, last) for round_ in range(steps.config.run.batch.rounds)],
        batch_size=None,
        num_workers=workers,
        pin_memory=pin_memory,
        prefetch_factor=2 if workers else None,
        worker_init_fn=set_worker_signals,
    )
    handler, others = signal.getsignal(signal.SIGCHLD), multiprocessing.active_children()
    iterator = iter(loader)
    children = [child for child in multiprocessing.active_children() if child not in others]
    if workers:  # torch's handler would interrupt whatever the parent does when a worker dies, even an update of weights
        signal.signal(signal.SIGCHLD, handler)
    try:
        for batch in iterator:
            if isinstance(batch, DataError):
                raise batch
            yield batch
    except RuntimeError as error:
        dead = [child.exitcode for child in children if child.exitcode]
        if not dead:
            raise
        for child in children:
            child.kill()  # a SIGTERM would end them late
            child.join()
        name = signal.Signals(-dead[0]).name if dead[0] < 0 else f"status {dead[0]}"
        reason = EXIT_REASONS.get(name, "which is no doing of this program; try a lower")
        raise DataError(
            f"a loader worker was ended by {name}, {reason} data.workers (it is {workers}, and 0 does without)"
        ) from error
    finally:
        del iterator  # its workers end with it; left to the interpreter's exit they might be waited for


def set_worker_signals(worker: int) -> None:
    """Leaves SIGINT to the parent, and delays SIGTERM until the parent has saved and gone.

    Ctrl-C and many a batch system signal every process; a worker that died at once would prevent the parent's last save.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(SIGTERM_GRACE))
