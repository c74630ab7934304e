"""A few images that are looked at again and again: of the evaluation, and of the pool with its pseudo labels over time.

    runs/NAME/panels/evaluation-0-image.jpg   -truth.png   -teacher.png   -student.png     of the last evaluation
                     unlabeled-0-image.jpg    -00000400.png  -00000800.png                 pseudo labels by step

Small files with the colours of pictures.py; what has no label is transparent.
"""

from pathlib import Path
from typing import Any, Callable, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..config import IGNORE_INDEX
from ..data.batches import ValidationSet
from ..data.images import read_image
from ..errors import DataError
from ..evaluation.inference import Setting, predict, predict_with_confidence
from ..evaluation.pictures import display_colours
from ..method.pseudo import required_confidence

FOLDER = "panels"
IMAGES = 4  # of either kind
SIDE = 320  # longest side, pixels

Readers = dict[str, Callable[[Tensor], Tensor]]


def evaluation_panels(folder: Path, readers: Readers, validation: ValidationSet, setting: Setting) -> None:
    """Image, truth, and what every network says, for evaluation images evenly spaced in the list."""
    (folder / FOLDER).mkdir(exist_ok=True)
    for number, index in enumerate(spread(len(validation))):
        item, name = validation[index], folder / FOLDER / f"evaluation-{number}"
        save_photo(item.image, name)
        maps = {"truth": item.labels} | {role: predict(reader, item.image, setting) for role, reader in readers.items()}
        for role, labels in maps.items():
            save_labels(labels, validation.classes, name.with_name(f"{name.name}-{role}.png"))


def unlabeled_panels(
    folder: Path, step: int, reader: Callable[[Tensor], Tensor], threshold: float | Tensor, pool: Sequence[Any],
    setting: Setting, classes: Sequence[str],
) -> None:  # fmt: skip
    """The pseudo labels after a step of images evenly spaced in the pool, whole and as the evaluation reads images."""
    (folder / FOLDER).mkdir(exist_ok=True)
    for number, index in enumerate(spread(len(pool))):
        try:
            picture = read_image(pool[index]["image"], setting.levels)
        except DataError:
            continue  # an unreadable image of the pool is told of where it is trained on
        image, name = torch.from_numpy(np.array(picture)).permute(2, 0, 1), folder / FOLDER / f"unlabeled-{number}"
        save_photo(image, name)
        labels, confidence = predict_with_confidence(reader, image, setting)
        pseudo = labels.masked_fill(confidence <= required_confidence(labels, threshold), IGNORE_INDEX)
        save_labels(pseudo, classes, name.with_name(f"{name.name}-{step:08d}.png"))


def spread(length: int) -> list[int]:
    """Numbers of a few images evenly spaced in a list."""
    return sorted({round(place) for place in np.linspace(0, length - 1, IMAGES)}) if length else []


def save_photo(image: Tensor, name: Path) -> None:
    """NAME-image.jpg of (3, H, W) uint8."""
    picture = Image.fromarray(image.permute(1, 2, 0).cpu().numpy())
    picture.resize(small(picture.size), Image.Resampling.LANCZOS).save(name.with_name(f"{name.name}-image.jpg"), quality=85)


def save_labels(labels: Tensor, classes: Sequence[str], path: Path) -> None:
    """An indexed PNG of (H, W) class ids in the colours to look at."""
    mask = Image.fromarray(labels.to(torch.uint8).cpu().numpy())
    mask.putpalette(display_colours(classes).tobytes())
    mask.resize(small(mask.size), Image.Resampling.NEAREST).save(path, transparency=IGNORE_INDEX)


def small(size: tuple[int, int]) -> tuple[int, int]:
    """Width and height of a picture that is not longer than SIDE."""
    scale = min(1, SIDE / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
