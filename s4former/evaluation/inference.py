"""Class maps of images of any size, predicted whole or in sliding windows, and confusion matrices of a data set.

A `Network` is any function of normalised images (B, 3, H, W) to logits (B, K, h, w), for any H and W, in eval mode;
`forward_logits` of networks/adapters.py makes one of a model. Whole images are resized, read and resized back as the
image processor of transformers does, so that an exported folder gives the class maps that were scored.
"""

import math
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as vision

from ..config import IGNORE_INDEX, Evaluation
from ..data.loader import prefetch
from ..data.progress import progress
from ..method.pseudo import required_confidence
from ..networks.image_processor import processor_size
from .metrics import ConfusionMatrix, ImageCounts
from .windows import resized_bands, sliding_rows

Network = Callable[[Tensor], Tensor]
PSEUDO_LABELS = "pseudo"  # the name of class maps without the pixels whose confidence is not above the threshold
AHEAD = 4  # images that are decoded in advance
MAX_WAITING = 2**28  # values of images that wait for others of their size, 256 MiB as uint8


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How a network is to read images.

    crop: height and width of the training crop, the window where the config names none.
    mean, std: of the three channels, for pixels in 0 .. 1; they belong to the weights.
    """

    evaluation: Evaluation
    crop: tuple[int, int]
    mean: Sequence[float]
    std: Sequence[float]
    device: torch.device | str = "cpu"

    @property
    def window(self) -> tuple[int, int]:
        """Height and width of a sliding window, pixels."""
        height, width = self.evaluation.window
        return height or self.crop[0], width or self.crop[1]

    @property
    def stride(self) -> tuple[int, int]:
        """Distance between windows down and across: two thirds of the window where the config names none."""
        down, across = self.evaluation.stride
        return down or max(1, self.window[0] * 2 // 3), across or max(1, self.window[1] * 2 // 3)

    @property
    def views(self) -> list[tuple[float, bool]]:
        """(scale, mirrored) of every view of an image."""
        return [(scale, mirrored) for scale in self.evaluation.scales for mirrored in (False, True)[: 1 + self.evaluation.flip]]

    def other_mode(self, sizes: Iterable[tuple[int, int]]) -> "Setting | None":
        """With the other mode, whole images one at a time; None where no image of these sizes exceeds a window."""
        fitted = [resize_for_test(size, self.evaluation) for size in sizes]
        larger = any(side > window for size in fitted for side, window in zip(size, self.window))
        if not larger or any(step > side for step, side in zip(self.stride, self.window)):
            return None
        changed = {"mode": "whole", "batch": 1} if self.evaluation.mode == "sliding" else {"mode": "sliding"}
        return replace(self, evaluation=replace(self.evaluation, **changed))

    @property
    def cut_windows(self) -> bool:
        """Whether windows are cut at the border, as UniMatch does, whose scores are probabilities."""
        return self.evaluation.mode == "sliding" and self.evaluation.windows == "cut"


def resize_for_test(size: tuple[int, int], evaluation: Evaluation) -> tuple[int, int]:
    """The size, ratio kept, whose shorter side is `short_side` unless the longer one would pass `long_side`.

    500 across and 375 down becomes 682 x 512, or 683 x 512 where `rounding` is half_up; short_side = 0 leaves it as it is.
    """
    short, long = evaluation.short_side, evaluation.long_side
    if not short:
        return size
    if evaluation.rounding == "down":
        return processor_size(size, short, long)
    return scaled_size(size, min(short / min(size), long / max(size)))


def scaled_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    return max(1, int(size[0] * scale + 0.5)), max(1, int(size[1] * scale + 0.5))


@contextmanager
def in_precision(name: str, device: torch.device) -> Iterator[None]:
    """Networks compute in `evaluation.precision`; float32 is without autocast and TF32, so a checkpoint scores the same everywhere."""
    dtype = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[name]
    with float32_products("ieee"), torch.autocast(device.type, dtype, enabled=dtype is not None):
        yield


@contextmanager
def float32_products(precision: str) -> Iterator[None]:
    """Matrix products and convolutions of float32 on a GPU are computed in "ieee" or "tf32"."""
    backends = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = precision
        yield
    finally:
        for backend, value in zip(backends, before):
            backend.fp32_precision = value


@torch.no_grad()
def predict(network: Network, images: Tensor, setting: Setting) -> Tensor:
    """Class maps at the size of the images: (3, H, W) uint8 to (H, W) long on the setting's device, or a batch of them."""
    if images.dim() == 3:
        return predict(network, images[None], setting)[0]
    scores = predict_scores(network, images, setting)
    # max rather than argmax, which takes several times as long across planes on a CPU
    return torch.stack([torch.cat([band.max(dim=0).indices for band in bands]) for bands in scores])


@torch.no_grad()
def predict_with_confidence(network: Network, images: Tensor, setting: Setting) -> tuple[Tensor, Tensor]:
    """Class maps as of `predict`, and the confidence of each pixel: its largest probability, float32."""
    if images.dim() == 3:
        labels, confidence = predict_with_confidence(network, images[None], setting)
        return labels[0], confidence[0]
    are_probabilities, labels, confidence = len(setting.views) > 1 or setting.cut_windows, [], []
    for bands in predict_scores(network, images, setting):
        best = [(band if are_probabilities else band.softmax(dim=0)).max(dim=0) for band in bands]
        labels.append(torch.cat([each.indices for each in best]))
        confidence.append(torch.cat([each.values for each in best]))
    return torch.stack(labels), torch.stack(confidence)


@torch.no_grad()
def predict_scores(network: Network, images: Tensor, setting: Setting) -> Iterator[Iterator[Tensor]]:
    """For every image (3, H, W) its scores at its own size, in bands (K, n, W) of rows from top to bottom.

    They are logits, or where several are averaged probabilities; never more than a few bands are in memory.
    """
    size = tuple(images.shape[-2:])
    resized = resize_for_test(size, setting.evaluation)
    if len(setting.views) == 1 and setting.evaluation.mode == "whole":
        pixels = normalise(resize_pixels(images.to(setting.device), scaled_size(resized, setting.views[0][0])), setting)
        yield from (resized_bands([one], one.shape[-2], size) for one in network(pixels))
        return
    for image in images:
        bands = [view_scores(network, image.to(setting.device), *view, resized, setting) for view in setting.views]
        if len(bands) > 1:  # a single view needs no softmax to be compared with itself
            probabilities = bands if setting.cut_windows else [(band.softmax(dim=0) for band in view) for view in bands]
            yield (sum(views) / len(views) for views in zip(*probabilities))
        else:
            yield bands[0]


def view_scores(
    network: Network, image: Tensor, scale: float, mirrored: bool, resized: tuple[int, int], setting: Setting
) -> Iterator[Tensor]:
    """Scores of one view of an image (3, H, W) uint8, whole or in windows, in bands at its own size."""
    size, target = tuple(image.shape[-2:]), scaled_size(resized, scale)
    image = resize_pixels(image.flip(2) if mirrored else image, target)
    if setting.evaluation.mode == "whole":
        rows = [network(normalise(image[None], setting))[0]]
        bands = resized_bands(rows, rows[0].shape[-2], size)
    else:
        options = {"window": setting.window, "stride": setting.stride, "batch": setting.evaluation.batch}
        options["normalise"] = partial(normalise, setting=setting)  # window by window: a large photo stays uint8
        rows = sliding_rows(network, image, cut=setting.cut_windows, **options)
        bands = resized_bands(rows, target[0], size)
    return (band.flip(2) for band in bands) if mirrored else bands


def resize_pixels(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images uint8 at another size; bilinear with antialiasing, rounded to uint8, as the image processor does."""
    return images if size == tuple(images.shape[-2:]) else vision.resize(images, list(size), antialias=True)


def normalise(images: Tensor, setting: Setting) -> Tensor:
    """(B, 3, H, W) uint8 to float32 with the mean and deviation that the weights expect."""
    mean, std = (torch.tensor(values, dtype=torch.float32, device=images.device) for values in (setting.mean, setting.std))
    return (images.float() / 255 - mean[:, None, None]) / std[:, None, None]


def batches_of_one_size(
    items: Iterable[Any], batch: int, *, max_batches: int = 8, max_values: int = MAX_WAITING
) -> Iterator[list[Any]]:
    """Groups items by the size of their image, `batch` at a time, every item exactly once.

    When more than `max_batches` times `batch` items or `max_values` values of them wait, the largest group goes as it is.
    """
    waiting: dict[tuple[int, ...], list[Any]] = {}
    for item in items:
        size = tuple(item.image.shape)
        waiting.setdefault(size, []).append(item)
        values = {size: math.prod(size) * len(group) for size, group in waiting.items()}
        if len(waiting[size]) == batch:
            yield waiting.pop(size)
        elif sum(map(len, waiting.values())) >= max_batches * batch or sum(values.values()) > max_values:
            yield waiting.pop(max(values, key=values.get))
    yield from waiting.values()


def predictions(
    networks: dict[str, Network], dataset: Any, setting: Setting, *, pseudo: tuple[str, float | Tensor] | None = None,
    process_index: int = 0, num_processes: int = 1,
) -> Iterator[tuple[list[Any], dict[str, Tensor]]]:  # fmt: skip
    """Class maps of several networks, by name, in one pass over the data.

    Args:
        dataset: a sequence of items with `image` (3, H, W) uint8, `labels` (H, W) long and `id`.
        pseudo: a network and a threshold; its class maps come once more under the name PSEUDO_LABELS, with IGNORE_INDEX
            where the confidence is not above the threshold.
        process_index, num_processes: image i belongs to process i % num_processes.

    Yields:
        items of one size, and per network their maps (B, H, W) long on the setting's device.
    """
    own = range(process_index, len(dataset), num_processes)
    own = prefetch(dataset.__getitem__, progress(own, "evaluation"), AHEAD)
    labeler, threshold = pseudo or ("", 0.0)
    for items in batches_of_one_size(own, setting.evaluation.batch):
        images = torch.stack([item.image for item in items])
        maps = {name: predict(network, images, setting) for name, network in networks.items() if name != labeler}
        if labeler:
            labels, confidence = predict_with_confidence(networks[labeler], images, setting)
            unsure = confidence <= required_confidence(labels, threshold)
            maps |= {labeler: labels, PSEUDO_LABELS: labels.masked_fill(unsure, IGNORE_INDEX)}
        yield items, maps


def evaluate_networks(
    networks: dict[str, Network], dataset: Any, setting: Setting, *, num_classes: int, images: ImageCounts | None = None, **options
) -> dict[str, ConfusionMatrix]:
    """One confusion matrix per network over this process's share of the data; with `pseudo` one more, PSEUDO_LABELS.

    images: receives the counts of every image. options: of `predictions`.
    """
    names = [*networks, PSEUDO_LABELS] if options.get("pseudo") else networks
    matrices = {name: ConfusionMatrix(num_classes, device=setting.device) for name in names}
    for items, maps in predictions(networks, dataset, setting, **options):
        update_matrices(matrices, items, maps, images)
    return matrices


def update_matrices(
    matrices: dict[str, ConfusionMatrix], items: Sequence[Any], maps: dict[str, Tensor],
    images: ImageCounts | None = None,
) -> None:
    """Adds what `predictions` yields to the matrix of each network; where a map has IGNORE_INDEX nothing is counted."""
    for name, matrix in matrices.items():
        for item, prediction in zip(items, maps[name]):
            labels = item.labels.to(prediction.device).masked_fill(prediction == IGNORE_INDEX, IGNORE_INDEX)
            own = ConfusionMatrix(matrix.num_classes, device=prediction.device).update(prediction, labels)
            matrix.pairs += own.pairs
            if images is not None:
                images.add(name, item.id, own)
