"""The straight versions beside the step: loading, counting and reading in windows, as public code does them."""

from typing import Callable

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Features, Sequence, Value
from PIL import Image
from torch import Tensor

from ..config import IGNORE_INDEX
from ..data.batches import StepDataset, shuffled_index
from ..data.colour import Colour, draw_colour
from ..data.geometry import Geometry, draw_geometry
from ..data.images import read_image
from ..data.masks import read_pair
from ..evaluation.hf_evaluate import evaluate_package
from ..randomness import Stream, numpy_generator

# ---- loading


def load_step(steps: StepDataset, step: int, mean: np.ndarray, std: np.ndarray) -> list[np.ndarray]:
    """The pictures of a step: whole images resized, cut, coloured change by change, normalised to float32 on the host."""
    config, sources, pictures = steps.config, steps.sources, []
    seed, batch, data = config.run.seed, config.run.batch, config.data
    for position in range(batch.labeled):
        index = shuffled_index(seed, Stream.LABELED_ORDER, step * batch.labeled + position, len(sources.labeled))
        image, mask = read_pair(sources.labeled[index], data, len(sources.classes))
        rng = numpy_generator(seed, Stream.LABELED_IMAGE, step, position)
        geometry = draw_geometry(rng, image.height, image.width, data, mask)
        whole = Image.fromarray(mask).resize(geometry.resized[::-1], Image.Resampling.NEAREST)
        pictures.append(cut(np.asarray(whole)[..., None], geometry, IGNORE_INDEX))
        pictures.append(colour(cut_whole(image, geometry), draw_colour(rng)))
    if config.method.teacher == "none":
        return [normalise(picture, mean, std) for picture in pictures]
    for position in range(batch.unlabeled):
        index = shuffled_index(seed, Stream.UNLABELED_ORDER, step * batch.unlabeled + position, len(sources.unlabeled))
        image = read_image(sources.unlabeled[index]["image"])
        rng = numpy_generator(seed, Stream.UNLABELED_IMAGE, step, position)
        weak = cut_whole(image, draw_geometry(rng, image.height, image.width, data))
        pictures += [weak, colour(weak, draw_colour(numpy_generator(seed, Stream.STRONG_COLOUR, step, position)))]
    return [normalise(picture, mean, std) for picture in pictures]


def cut_whole(image: Image.Image, geometry: Geometry) -> np.ndarray:
    return cut(np.asarray(image.resize(geometry.resized[::-1], Image.Resampling.BILINEAR)), geometry, 0)


def cut(whole: np.ndarray, geometry: Geometry, fill: int) -> np.ndarray:
    """The box of a whole resized picture (H, W, C), flipped and padded to the crop."""
    height, width = geometry.box
    part = whole[geometry.top : geometry.top + height, geometry.left : geometry.left + width]
    part = part[:, ::-1] if geometry.flip else part
    return np.pad(part, ((0, geometry.crop[0] - height), (0, geometry.crop[1] - width), (0, 0)), constant_values=fill)


def colour(picture: np.ndarray, drawn: Colour) -> np.ndarray:
    """Every change by itself in float32, with its own trip to HSV."""

    def linear(values: np.ndarray, factor: float = 1.0, added: float = 0.0) -> np.ndarray:
        return np.clip(values.astype(np.float32) * factor + added, 0, 255).astype(np.uint8)

    picture = linear(picture, added=drawn.brightness)
    if not drawn.contrast_last:
        picture = linear(picture, drawn.contrast)
    if drawn.saturation != 1:
        hsv = np.array(Image.fromarray(picture).convert("HSV"))
        hsv[..., 1] = linear(hsv[..., 1], drawn.saturation)
        picture = np.array(Image.fromarray(hsv, "HSV").convert("RGB"))
    if drawn.hue:
        hsv = np.array(Image.fromarray(picture).convert("HSV"))
        hsv[..., 0] = (hsv[..., 0].astype(int) + round(drawn.hue * 255 / 180)) % 255
        picture = np.array(Image.fromarray(hsv, "HSV").convert("RGB"))
    return linear(picture, drawn.contrast) if drawn.contrast_last else picture


def normalise(picture: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 to (3, H, W) float32; a mask (H, W, 1) becomes int64."""
    if picture.shape[2] == 1:
        return picture[..., 0].astype(np.int64)
    return np.ascontiguousarray(((picture.astype(np.float32) / 255 - mean) / std).transpose(2, 0, 1), np.float32)


# ---- counting


def areas(prediction: np.ndarray, labels: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Intersection and union of one image per class, by three histograms."""
    kept = labels != IGNORE_INDEX
    prediction, labels = prediction[kept], labels[kept]
    bins = {"bins": classes, "range": (0, classes - 1)}
    hits, said, true = (np.histogram(x, **bins)[0] for x in (prediction[prediction == labels], prediction, labels))
    return hits, said + true - hits


def mean_iou(predictions: np.ndarray, labels: np.ndarray, classes: int) -> float:
    """Image by image."""
    hits = union = 0
    for prediction, truth in zip(predictions, labels):
        image_hits, image_union = areas(prediction, truth, classes)
        hits, union = hits + image_hits, union + image_union
    return float(np.nanmean(hits / np.where(union, union, np.nan)))


def arrow_metric(classes: int):
    """The same histograms as a metric of the `evaluate` package that keeps every map in an Arrow table, as its own does."""
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
def window_by_window(
    network: Callable[[Tensor], Tensor], image: Tensor, window: tuple[int, int], stride: tuple[int, int]
) -> Tensor:
    """Logits (1, K, H, W) of one image, the windows one at a time."""
    height, width = image.shape[-2:]
    total = count = None
    for down in range(0, max(height - window[0] + stride[0] - 1, 0) // stride[0] + 1):
        for across in range(0, max(width - window[1] + stride[1] - 1, 0) // stride[1] + 1):
            bottom, right = min(down * stride[0] + window[0], height), min(across * stride[1] + window[1], width)
            top, left = max(bottom - window[0], 0), max(right - window[1], 0)
            logits = network(image[:, :, top:bottom, left:right])
            logits = F.interpolate(logits, size=(bottom - top, right - left), mode="bilinear", align_corners=False)
            if total is None:
                total, count = image.new_zeros(1, logits.shape[1], height, width), image.new_zeros(1, 1, height, width)
            total += F.pad(logits, (left, width - right, top, height - bottom))
            count[:, :, top:bottom, left:right] += 1
    return total / count
