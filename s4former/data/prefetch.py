"""Ahead of their use: images are decoded by threads and batches copied to the device, while the network processes the ones before."""

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Callable, Iterable, Iterator, TypeVar

import torch

from ..method.batch import Batch

Item, Result = TypeVar("Item"), TypeVar("Result")


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
