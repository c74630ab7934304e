"""The bar of a long look at files, and lines where there is no terminal."""

import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
DELAY = 1.0  # seconds; what takes less shows no bar
LINE_EVERY = 30.0  # seconds


def progress(items: Iterable[Item], what: str, total: int | None = None) -> Iterator[Item]:
    """The items, with a bar that is gone at the end, or a line now and then; of the first process.

    total: how many there are, where they have no length.
    """
    if os.environ.get("RANK", "0") != "0":
        yield from items
    elif sys.stderr.isatty():
        yield from tqdm(items, desc=what, total=total, unit="file", leave=False, delay=DELAY, dynamic_ncols=True)
    else:
        total, due = len(items) if total is None else total, time.monotonic() + LINE_EVERY
        for count, item in enumerate(items):
            if time.monotonic() >= due:
                print(f"{what}: {count} of {total}", file=sys.stderr, flush=True)
                due = time.monotonic() + LINE_EVERY
            yield item
