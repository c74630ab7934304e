"""Ahead of their use: batches from loader workers, images decoded by threads, and copies to the device.

Neither Ctrl-C nor the end of a loader worker takes training by surprise.
"""

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import torch
from torch.utils.data import DataLoader

from ..errors import DataError
from ..method.batch import Batch
from .batches import StepDataset

Item, Result = TypeVar("Item"), TypeVar("Result")
SIGTERM_GRACE = 120  # seconds that a loader worker outlives a SIGTERM
EXIT_REASONS = {
    "SIGKILL": "as a system that runs out of memory ends processes; take a lower",
    "SIGBUS": "as happens where shared memory (/dev/shm) is too small, as in containers; enlarge it, or take a lower",
}


def step_loader(steps: StepDataset, first: int, last: int, *, workers: int, pin_memory: bool) -> Iterator[Batch]:
    """The batches of steps `first` .. `last` - 1, round after round; `DataError` for a labelled image or a worker that fails."""
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


def prefetch(work: Callable[[Item], Result], items: Iterable[Item], ahead: int) -> Iterator[Result]:
    """`work` of every item, in order; the next `ahead` items are worked on, and no more are asked for or kept.

    What `work` raises is raised in the item's turn. Worth it for what lets other threads run, as decoders of images do.
    """
    with ThreadPoolExecutor(ahead) as pool:
        items = iter(items)
        begun = deque(pool.submit(work, item) for item in islice(items, ahead))
        while begun:
            result = begun.popleft().result()
            begun.extend(pool.submit(work, item) for item in islice(items, 1))
            yield result


def copy_batch(batch: Batch, device: torch.device, stream: torch.cuda.Stream | None) -> Batch:
    """A batch in pinned memory copied to the device; on a stream of its own, while the step before is still computed there.

    The current stream waits for it, and its memory is not given away before that stream is done with it. None: no other stream.
    """
    if stream is None:
        return batch.map(lambda tensor: tensor.to(device, non_blocking=True))
    current = torch.cuda.current_stream(device)
    with torch.cuda.stream(stream):
        batch = batch.map(lambda tensor: tensor.to(device, non_blocking=True))
    current.wait_stream(stream)
    batch.map(lambda tensor: tensor.record_stream(current))
    return batch
