"""From an image of any size to its class map: whole or in sliding windows, and many images into confusion matrices.

A `Network` here is any function of normalised images (B, 3, H, W) to logits (B, K, H, W), for any H and W; `full_size_logits` of
models.py makes one of a real model. It should be in eval mode. Nothing here knows what kind of network it is, or where
the images come from.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, Callable, Iterable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import IGNORE_INDEX, Evaluation
from ..data.prefetch import prefetch
from ..method.pseudo import required_confidence
from .metrics import ConfusionMatrix, ImageCounts
from .windows import resized_bands, sliding_rows

Network = Callable[[Tensor], Tensor]
PSEUDO_LABELS = "pseudo"  # the name of class maps without the pixels that a teacher is unsure of
AHEAD = 4  # images of an evaluation that are decoded before they are asked for
WAITING = 2**28  # values of images that wait for others of their size, 256 MiB as uint8


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What has to be known to test a network.

    crop: height and width of the training crop, the window where the config names none.
    mean, std: of the three channels, for pixels in 0 .. 1; they belong to the weights.
    levels: `data.levels`, of images with more than 8 bits.
    """

    evaluation: Evaluation
    crop: tuple[int, int]
    mean: Sequence[float]
    std: Sequence[float]
    device: torch.device | str = "cpu"
    levels: tuple[float, float] = (0.0, 0.0)

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


def resize_for_test(height: int, width: int, *, short_side: int, long_side: int) -> tuple[int, int]:
    """The size, ratio kept, whose shorter side is `short_side` unless the longer one would pass `long_side`.

    500 across and 375 down becomes 683 x 512. Rounded half up, as the released code does; 0 leaves the size as it is.
    """
    if not short_side:
        return height, width
    scale = min(short_side / min(height, width), long_side / max(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


@torch.no_grad()
def predict(network: Network, images: Tensor, setting: Setting) -> Tensor:
    """Class maps of images as they come from disk: resized, normalised, read whole or in windows, brought back to size.

    Args:
        images: (3, H, W) uint8, or (B, 3, H, W) of one size.

    Returns:
        (H, W) or (B, H, W) long, on the setting's device.
    """
    if images.dim() == 3:
        return predict(network, images[None], setting)[0]
    scores = read(network, images, setting)
    # max rather than argmax, which takes several times as long across planes on a CPU
    return torch.stack([torch.cat([band.max(dim=0).indices for band in bands]) for bands in scores])


@torch.no_grad()
def predict_with_confidence(network: Network, images: Tensor, setting: Setting) -> tuple[Tensor, Tensor]:
    """Class maps as of `predict`, and how sure the network is of them: its largest probability, float32, same shape."""
    if images.dim() == 3:
        labels, confidence = predict_with_confidence(network, images[None], setting)
        return labels[0], confidence[0]
    averaged = gives_probabilities(setting.evaluation)
    maps = []
    for bands in read(network, images, setting):
        best = [(band if averaged else band.softmax(dim=0)).max(dim=0) for band in bands]
        maps.append((torch.cat([each.indices for each in best]), torch.cat([each.values for each in best])))
    labels, confidence = zip(*maps)
    return torch.stack(labels), torch.stack(confidence)


@torch.no_grad()
def read(network: Network, images: Tensor, setting: Setting) -> Iterator[Iterator[Tensor]]:
    """For every image (3, H, W) its scores at its own size, in bands (K, n, W) of rows from top to bottom.

    They are logits, or where several are averaged probabilities; never more than a few bands are in memory.
    """
    evaluation, size = setting.evaluation, tuple(images.shape[-2:])
    resized = resize_for_test(*size, short_side=evaluation.short_side, long_side=evaluation.long_side)
    views = views_of(evaluation)
    if len(views) == 1 and evaluation.mode == "whole":
        pixels = resize_pixels(normalise(images.to(setting.device), setting), resized, views[0][0])
        yield from (resized_bands([one], one.shape[-2], size) for one in network(pixels))
        return
    for image in images:
        bands = [read_view(network, image.to(setting.device), *view, resized, setting) for view in views]
        # probabilities are averaged over views; a single view needs no softmax to be compared with itself
        yield bands[0] if len(views) == 1 else (average(parts, evaluation) for parts in zip(*bands))


def views_of(evaluation: Evaluation) -> list[tuple[float, bool]]:
    """(scale, mirrored) of every reading of an image."""
    return [(scale, mirrored) for scale in evaluation.scales for mirrored in (False, True)[: 1 + evaluation.flip]]


def read_view(
    network: Network, image: Tensor, scale: float, mirrored: bool, resized: tuple[int, int], setting: Setting
) -> Iterator[Tensor]:
    """Scores of one scale of an image (3, H, W) uint8, mirrored or not, whole or in windows, in bands at its own size."""
    evaluation, size = setting.evaluation, tuple(image.shape[-2:])
    image = image.flip(2) if mirrored else image
    target, options = scaled(resized, scale), {"ready": partial(normalise, setting=setting)}
    if evaluation.mode == "whole":
        rows = [network(resize_pixels(normalise(image[None], setting), resized, scale))[0]]
        bands = resized_bands(rows, rows[0].shape[-2], size)
    else:
        if target != size:
            image, options = resize_pixels(normalise(image[None], setting), resized, scale)[0], {}
        options |= {"window": setting.window, "stride": setting.stride, "batch": evaluation.batch}
        rows = sliding_rows(network, image, cut=evaluation.windows == "cut", **options)
        bands = resized_bands(rows, target[0], size)
    return (band.flip(2) for band in bands) if mirrored else bands


def average(parts: Sequence[Tensor], evaluation: Evaluation) -> Tensor:
    """The mean probability over views of one band; cut windows give probabilities already."""
    cut = evaluation.mode == "sliding" and evaluation.windows == "cut"
    return sum(part if cut else part.softmax(dim=0) for part in parts) / len(parts)


def gives_probabilities(evaluation: Evaluation) -> bool:
    """Whether `read` gives probabilities rather than logits."""
    return len(views_of(evaluation)) > 1 or (evaluation.mode == "sliding" and evaluation.windows == "cut")


def scaled(resized: tuple[int, int], scale: float) -> tuple[int, int]:
    return max(1, int(resized[0] * scale + 0.5)), max(1, int(resized[1] * scale + 0.5))


def resize_pixels(pixels: Tensor, resized: tuple[int, int], scale: float) -> Tensor:
    """Normalised images at the test size times a scale; bilinear with antialiasing, as the training crops are."""
    target = scaled(resized, scale)
    if target == tuple(pixels.shape[-2:]):
        return pixels
    return F.interpolate(pixels, size=target, mode="bilinear", align_corners=False, antialias=True)


def normalise(images: Tensor, setting: Setting) -> Tensor:
    """(B, 3, H, W) uint8 to float32 with the mean and deviation that the weights expect."""
    mean, std = (torch.tensor(values, dtype=torch.float32, device=images.device) for values in (setting.mean, setting.std))
    return (images.float() / 255 - mean[:, None, None]) / std[:, None, None]


def batches_of_one_size(items: Iterable[Any], batch: int, *, patience: int = 8, most: int = WAITING) -> Iterator[list[Any]]:
    """Groups items by the size of their image, `batch` at a time, every item exactly once.

    At most `patience` batches' worth of items, and `most` values of them, wait for company; then the largest group goes
    as it is.
    """
    waiting: dict[tuple[int, ...], list[Any]] = {}
    for item in items:
        size = tuple(item.image.shape)
        waiting.setdefault(size, []).append(item)
        values = sum(math.prod(key) * len(group) for key, group in waiting.items())
        if len(waiting[size]) < batch and (sum(map(len, waiting.values())) >= patience * batch or values > most):
            size = max(waiting, key=lambda key: math.prod(key) * len(waiting[key]))
        elif len(waiting[size]) < batch:
            continue
        yield waiting.pop(size)
    yield from waiting.values()


def predictions(
    networks: dict[str, Network],
    dataset: Any,
    setting: Setting,
    *,
    pseudo: tuple[str, float | Tensor] | None = None,
    limit: int = 0,
    process_index: int = 0,
    num_processes: int = 1,
) -> Iterator[tuple[list[Any], dict[str, Tensor]]]:
    """Class maps of several networks in one pass over the data.

    Args:
        networks: by name.
        dataset: a sequence of items with `image` (3, H, W) uint8, `labels` (H, W) long and `id`.
        pseudo: a network and a threshold; the class maps of that network come once more under the name PSEUDO_LABELS, with
            IGNORE_INDEX where its confidence is not above.
        limit: only the first images; 0 = all.
        process_index, num_processes: image i belongs to process i % num_processes, so none is seen twice.

    Yields:
        items of one size, and per network their maps (B, H, W) long on the setting's device.
    """
    end = min(limit, len(dataset)) if limit else len(dataset)
    mine = prefetch(dataset.__getitem__, range(process_index, end, num_processes), AHEAD)
    for items in batches_of_one_size(mine, setting.evaluation.batch):
        images = torch.stack([item.image for item in items])
        speaker, threshold = pseudo or ("", 0.0)
        maps = {name: predict(network, images, setting) for name, network in networks.items() if name != speaker}
        if speaker:
            labels, confidence = predict_with_confidence(networks[speaker], images, setting)
            maps |= {speaker: labels, PSEUDO_LABELS: labels.masked_fill(confidence <= required_confidence(labels, threshold), IGNORE_INDEX)}
        yield items, maps


def evaluate_networks(
    networks: dict[str, Network],
    dataset: Any,
    setting: Setting,
    *,
    num_classes: int,
    pseudo: tuple[str, float | Tensor] | None = None,
    images: ImageCounts | None = None,
    **part: int,
) -> dict[str, ConfusionMatrix]:
    """One confusion matrix per network over this process's share of the data; the caller sums over the processes.

    With `pseudo` there is one more, PSEUDO_LABELS, over the pixels of which that network is sure; see `predictions`.
    `images` receives the counts of every image. `part` is `limit`, `process_index` and `num_processes` of `predictions`.
    """
    names = [*networks, PSEUDO_LABELS] if pseudo else networks
    matrices = {name: ConfusionMatrix(num_classes, device=setting.device) for name in names}
    for items, maps in predictions(networks, dataset, setting, pseudo=pseudo, **part):
        count(matrices, items, maps)
        if images is not None:
            images.update([item.id for item in items], maps, torch.stack([item.labels for item in items]))
    return matrices


def count(matrices: dict[str, ConfusionMatrix], items: Sequence[Any], maps: dict[str, Tensor]) -> None:
    """Adds what `predictions` yields to the matrix of each network; where a map has IGNORE_INDEX nothing is counted."""
    labels = torch.stack([item.labels for item in items])
    for name, matrix in matrices.items():
        matrix.update(maps[name], labels.to(maps[name].device).masked_fill(maps[name] == IGNORE_INDEX, IGNORE_INDEX))
