"""Items are worked on by threads ahead of their use: images are decoded while the network processes the ones before."""

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Callable, Iterable, Iterator, TypeVar

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
