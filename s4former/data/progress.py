"""The bar of a long look at files."""

import os
from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
DELAY = 1.0  # seconds; what takes less shows none


def progress(items: Iterable[Item], what: str, total: int | None = None) -> Iterable[Item]:
    """The items, with a bar on the terminal of the first process that is gone at the end; `total` where they have no length."""
    hidden = None if os.environ.get("RANK", "0") == "0" else True  # None: shown on a terminal alone
    return tqdm(items, desc=what, total=total, unit="file", disable=hidden, leave=False, delay=DELAY, dynamic_ncols=True)
