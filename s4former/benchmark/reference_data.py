"""Plain implementations of loading, scoring and sliding windows, as public code has them, to be compared with ours."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Features, Sequence, Value
from PIL import Image
from torch import Tensor

from ..config import IGNORE_INDEX
from ..data.batches import StepDataset, UnlabeledCrop, shuffled_index
from ..data.colour import Colour, draw_colour
from ..data.geometry import Geometry, draw_geometry
from ..data.images import read_image
from ..data.masks import read_pair
from ..evaluation.hf_evaluate import evaluate_package
from ..evaluation.windows import window_places
from ..method.batch import Batch
from ..randomness import Stream, numpy_generator
from .inputs import mean_and_std

# ---- loading


class ReferenceDataset(StepDataset):
    """The same crops from whole resized images, coloured change by change and normalised to float32 by the loader."""

    def batch(self, step: int, round_: int) -> Batch:
        device = torch.device("cpu")
        return super().batch(step, round_).on(device, *mean_and_std(self.config, device))

    def labeled_image(self, step: int, position: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, None]:
        seed, data, count = self.config.run.seed, self.config.data, self.config.run.batch.labeled
        index = shuffled_index(seed, Stream.LABELED_ORDER, step * count + position, len(self.sources.labeled))
        image, mask = read_pair(self.sources.labeled[index], data, len(self.sources.classes))
        rng = numpy_generator(seed, Stream.LABELED_IMAGE, step, position)
        geometry = draw_geometry(rng, image.height, image.width, data, mask)
        labels = resize_and_crop(Image.fromarray(mask), geometry, Image.Resampling.NEAREST, IGNORE_INDEX)
        return distort(resize_and_crop(image, geometry), draw_colour(rng)), labels, valid_pixels(geometry), None

    def unlabeled_image(self, step: int, position: int) -> UnlabeledCrop:
        seed, data, pool = self.config.run.seed, self.config.data, self.sources.unlabeled
        index = shuffled_index(seed, Stream.UNLABELED_ORDER, step * self.config.run.batch.unlabeled + position, len(pool))
        image = read_image(pool[index]["image"])
        rng = numpy_generator(seed, Stream.UNLABELED_IMAGE, step, position)
        geometry = draw_geometry(rng, image.height, image.width, data)
        weak = resize_and_crop(image, geometry)
        strong = distort(weak, draw_colour(numpy_generator(seed, Stream.STRONG_COLOUR, step, position)))
        return UnlabeledCrop(weak, [strong], valid_pixels(geometry), [])


def resize_and_crop(image: Image.Image, geometry: Geometry, resampling=Image.Resampling.BILINEAR, fill: int = 0) -> np.ndarray:
    """The box of the whole resized image, flipped and padded to the crop."""
    (height, width), crop = geometry.box, geometry.crop
    whole = np.asarray(image.resize(geometry.resized[::-1], resampling))
    part = whole[geometry.top : geometry.top + height, geometry.left : geometry.left + width]
    part = part[:, ::-1] if geometry.flip else part
    padding = [(0, crop[0] - height), (0, crop[1] - width), (0, 0)]
    return np.pad(part, padding[: part.ndim], constant_values=fill)


def valid_pixels(geometry: Geometry) -> np.ndarray:
    return np.pad(np.ones(geometry.box, bool), [(0, crop - side) for crop, side in zip(geometry.crop, geometry.box)])


def distort(image: np.ndarray, colour: Colour) -> np.ndarray:
    """Photometric distortion, every change by itself in float32, with its own conversion to HSV."""

    def scale(values: np.ndarray, factor: float = 1.0, added: float = 0.0) -> np.ndarray:
        return np.clip(values.astype(np.float32) * factor + added, 0, 255).astype(np.uint8)

    def change_hsv(channel: int, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        hsv = np.array(Image.fromarray(image).convert("HSV"))
        hsv[..., channel] = change(hsv[..., channel])
        return np.array(Image.fromarray(hsv, "HSV").convert("RGB"))

    image = scale(image, added=colour.brightness)
    if not colour.contrast_last:
        image = scale(image, colour.contrast)
    if colour.saturation != 1:
        image = change_hsv(1, lambda values: scale(values, colour.saturation))
    if colour.hue:
        image = change_hsv(0, lambda values: (values.astype(int) + round(colour.hue * 255 / 180)) % 255)
    return scale(image, colour.contrast) if colour.contrast_last else image


# ---- scoring


def mean_iou(predictions: np.ndarray, labels: np.ndarray, classes: int) -> float:
    """By three histograms of every image, as in mmsegmentation and `evaluate`."""
    intersection, union = np.zeros(classes), np.zeros(classes)
    for prediction, truth in zip(predictions, labels):
        prediction, truth = prediction[truth != IGNORE_INDEX], truth[truth != IGNORE_INDEX]
        areas = prediction[prediction == truth], prediction, truth
        hits, predicted, true = (np.histogram(x, bins=classes, range=(0, classes - 1))[0] for x in areas)
        intersection, union = intersection + hits, union + predicted + true - hits
    return float(np.nanmean(intersection / np.where(union, union, np.nan)))


def arrow_metric(classes: int):
    """`mean_iou` as a metric of `evaluate` that keeps every map in an Arrow table, as the one of that package does."""
    evaluate = evaluate_package()

    class MeanIou(evaluate.Metric):
        """Mean IoU."""

        def _info(self):
            maps = Sequence(Sequence(Value("uint16")))
            features = Features({"predictions": maps, "references": maps})
            return evaluate.MetricInfo(description="mean IoU", citation="", inputs_description="", features=features)

        def _compute(self, predictions, references):
            return {"mean_iou": mean_iou(*(map(np.array, maps) for maps in (predictions, references)), classes)}

    return MeanIou()


# ---- windows


@torch.no_grad()
def sliding_logits(network: Callable[[Tensor], Tensor], image: Tensor, window: tuple[int, int], stride: tuple[int, int]) -> Tensor:
    """Logits (1, K, H, W) of one image (1, 3, H, W), averaged over windows that are read one at a time."""
    total, count = 0, torch.zeros_like(image[:, :1])
    for rows, columns in window_places(image.shape[-2:], window, stride, cut=False):
        part = image[:, :, rows, columns]
        logits = F.interpolate(network(part), size=part.shape[-2:], mode="bilinear", align_corners=False)
        padding = (columns.start, image.shape[3] - columns.stop, rows.start, image.shape[2] - rows.stop)
        total = total + F.pad(logits, padding)
        count[:, :, rows, columns] += 1
    return total / count
