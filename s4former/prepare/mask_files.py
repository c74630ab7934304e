"""Writing many masks in parallel, each of them either whole or not there."""

import multiprocessing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm


def save_ids(path: Path, ids: np.ndarray) -> None:
    """Writes (H, W) uint8 ids as a grey PNG, under another name first, so that a file that is there is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    Image.fromarray(ids).save(part, format="PNG")
    part.replace(path)


def in_parallel(work: Callable[[Any], None], items: Sequence[Any], processes: int, what: str) -> None:
    """work(item) for every item, with a progress bar; the first error ends it."""
    if processes < 2 or len(items) < 2:
        for item in tqdm(items, desc=what, unit=" files"):
            work(item)
        return
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for _ in tqdm(pool.imap_unordered(work, items, chunksize=16), total=len(items), desc=what, unit=" files"):
            pass
