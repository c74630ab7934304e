"""Mask files that are either whole or not there."""

from pathlib import Path

import numpy as np
from PIL import Image


def save_ids(path: Path, ids: np.ndarray) -> None:
    """Writes (H, W) uint8 ids as a grey PNG, under another name first, so that a file that is there is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    Image.fromarray(ids).save(part, format="PNG")
    part.replace(path)
