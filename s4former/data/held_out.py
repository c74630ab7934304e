"""Labelled images that are held out from training, to measure on them how often pseudo labels are right."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..config import IGNORE_INDEX, Config
from ..errors import DataError
from ..randomness import Stream, numpy_generator
from .batches import shuffled_index
from .cache import read_labeled_pair
from .geometry import crop_pair, draw_geometry
from .lists import hold_out
from .sources import Sources, labeled_pixels

SHARE, LEAST = 1 / 20, 4  # of the labelled images, and never fewer ...
MOST = 1 / 5  # ... nor a larger share
CROPS = 32  # of one measurement


class HeldOut:
    """Crops of the images that `split` holds out, cut as those of unlabelled images are; measurement by measurement other ones."""

    def __init__(self, config: Config, sources: Sources, places: Sequence[int]):
        self.config, self.classes = config, len(sources.classes)
        self.rows = sources.labeled.select(places)

    def crop(self, measurement: int, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Image (3, H, W) uint8, labels (H, W) long and valid (H, W) bool."""
        seed, data = self.config.run.seed, self.config.data
        row = self.rows[shuffled_index(seed, Stream.CALIBRATION_ORDER, measurement * CROPS + number, len(self.rows))]
        image, mask = read_labeled_pair(row, data, self.classes)
        rng = numpy_generator(seed, Stream.CALIBRATION_IMAGE, measurement, number)
        crops = crop_pair(image, mask, draw_geometry(rng, image.height, image.width, data))
        pixels, labels, valid = map(torch.from_numpy, crops)
        return pixels.permute(2, 0, 1), labels.long(), valid


def split(config: Config, sources: Sources) -> tuple[Sources, HeldOut | None]:
    """What is trained on, with a note, and what is held out, where `method.thresholds` is calibrated; `DataError` for too few labels."""
    total = len(sources.labeled)
    if config.method.thresholds != "calibrated" or config.method.teacher == "none":
        return sources, None
    wanted, found = max(LEAST, round(SHARE * total)), []
    if wanted <= MOST * total:
        shown = labeled_pixels(sources, config.data)[:, :IGNORE_INDEX]
        found = hold_out([np.flatnonzero(pixels).tolist() for pixels in shown], wanted, config.run.seed)
    if len(found) < LEAST:
        raise DataError(
            f"method.thresholds=calibrated holds a twentieth of the labelled images out, {LEAST} at least and a fifth at most, and no"
            f" class may be left without an image: of {total} that leaves {len(found)}; label more, or set method.thresholds=per_class"
        )
    note = f"{len(found)} of the {total} labelled images are held out from training, to measure how often confident pixels are right"
    kept = sorted(set(range(total)) - set(found))
    return replace(sources, labeled=sources.labeled.select(kept), notes=(*sources.notes, note)), HeldOut(config, sources, sorted(found))
