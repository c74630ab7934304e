"""Pictures of fixed images: some evaluation images, and some of the unlabelled pool with their pseudo labels over time.

    panels/evaluation-0-image.jpg   -truth.png   -teacher.png   -student.png   -wrong.jpg   of the last evaluation
           unlabeled-0-image.jpg    -00000400.png  -00000800.png                 pseudo labels by step

They are small, with the colours of pictures.py; what has no label is transparent.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..config import IGNORE_INDEX
from ..evaluation.inference import predict, predict_with_confidence
from ..evaluation.photos import read_photos
from ..evaluation.pictures import contact_sheet, display_colours, spread
from ..method.pseudo import required_confidence
from .run import Training, eval_mode

PANELS = 4  # images of either kind
ROWS = 6  # of predictions.png
SIDE = 320  # longest side of a panel, pixels
WRONG = (206, 46, 32)  # red, of pixels that are predicted wrongly


def draw_panels(training: Training) -> None:
    """Evaluation images with truth and predictions, and images of the pool with the pseudo labels of this step."""
    folder, setting = training.folder / "panels", training.setting
    validation, pool = training.validation, training.sources.unlabeled
    colours = display_colours(training.sources.classes, training.config.data)
    folder.mkdir(exist_ok=True)
    with eval_mode(training.networks) as networks:
        for number, index in enumerate(spread(len(validation), PANELS)):
            item, name = validation[index], f"evaluation-{number}"
            save_photo(item.image, folder / f"{name}-image.jpg")
            maps = {role: predict(network, item.image, setting) for role, network in networks.items()}
            for column, labels in {"truth": item.labels, **maps}.items():
                save_labels(labels, colours, folder / f"{name}-{column}.png")
            first = maps[next(iter(networks))].cpu()
            save_photo(wrong_pixels(item.image, item.labels, first), folder / f"{name}-wrong.jpg")
        role, threshold = training.pseudo_labeler or ("", 0.0)
        chosen = spread(len(pool), PANELS) if role else []
        photos = ((str(number), pool[index]["image"]) for number, index in enumerate(chosen))
        for photo in read_photos(photos, [], training.config.data.levels):  # others are named where they are trained on
            save_photo(photo.image, folder / f"unlabeled-{photo.id}-image.jpg")
            labels, confidence = predict_with_confidence(networks[role], photo.image, setting)
            pseudo = labels.masked_fill(confidence <= required_confidence(labels, threshold), IGNORE_INDEX)
            save_labels(pseudo, colours, folder / f"unlabeled-{photo.id}-{training.step:08d}.png")


def draw_predictions(training: Training) -> None:
    """predictions.png: evaluation images, the truth, and the prediction of every network."""
    validation, rows = training.validation, []
    with eval_mode(training.networks) as networks:
        for item in (validation[index] for index in spread(len(validation), ROWS)):
            maps = [predict(network, item.image, training.setting).cpu().numpy() for network in networks.values()]
            rows.append([item.image.permute(1, 2, 0).numpy(), item.labels.numpy(), *maps])
    heading = f"{training.config.method.title} after {training.step} steps"
    sheet = contact_sheet(rows, ["image", "truth", *training.networks], validation.classes, heading, training.config.data)
    sheet.save(training.folder / "predictions.png")


def save_photo(image: Tensor, path: Path) -> None:
    """A JPEG of (3, H, W) uint8."""
    picture = Image.fromarray(image.permute(1, 2, 0).cpu().numpy())
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    picture.save(path, quality=85)


def wrong_pixels(image: Tensor, labels: Tensor, predicted: Tensor) -> Tensor:
    """The image (3, H, W) uint8 in pale greys, and red where it has a label (H, W) and another is predicted."""
    grey = (0.45 * image.float().mean(dim=0) + 140).clamp(max=255).expand(3, -1, -1)
    wrong, red = (labels != IGNORE_INDEX) & (labels != predicted), torch.tensor(WRONG)[:, None, None]
    return torch.where(wrong, 0.25 * grey + 0.75 * red, grey).round().to(torch.uint8)


def save_labels(labels: Tensor, colours: np.ndarray, path: Path) -> None:
    """An indexed PNG of (H, W) class ids; colours: (256, 3) uint8."""
    mask = Image.fromarray(labels.to(torch.uint8).cpu().numpy())
    mask.putpalette(colours.tobytes())
    mask.thumbnail((SIDE, SIDE), Image.Resampling.NEAREST)
    mask.save(path, transparency=IGNORE_INDEX)
