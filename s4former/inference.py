"""From an image of any size to its class map: whole or in sliding windows, and many images into confusion matrices.

A `Network` here is any function of normalised images (B, 3, H, W) to logits (B, K, H, W), for any H and W; `logits_at` of
models.py makes one of a real model. It should be in eval mode. Nothing here knows what kind of network it is, or where
the images come from.
"""

import itertools
from dataclasses import dataclass
from typing import Any, Callable, Iterable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .config import Evaluation
from .metrics import ConfusionMatrix
from .pseudo import resize_logits

Network = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What has to be known to test a network.

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


def resize_for_test(height: int, width: int, *, short_side: int, long_side: int) -> tuple[int, int]:
    """The size, ratio kept, whose shorter side is `short_side` unless the longer one would pass `long_side`.

    500 across and 375 down becomes 683 x 512. Rounded half up, as the released code does; 0 leaves the size as it is.
    """
    if not short_side:
        return height, width
    scale = min(short_side / min(height, width), long_side / max(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin along one side: multiples of the stride, the last one moved back to end with the image.

    One window at 0 where the image is not longer than the window.
    """
    if not 1 <= stride <= window:
        raise ValueError(f"the stride is {stride} for windows of {window} pixels; use 1 to {window}, or pixels are missed")
    last = max(0, length - window)
    return [*range(0, last, stride), last]


@torch.no_grad()
def predict_whole(network: Network, images: Tensor, *, size: tuple[int, int] | None = None) -> Tensor:
    """Logits (B, K, H, W) float32 of whole normalised images (B, 3, h, w), at `size` or their own."""
    return resize_logits(network(images), size or images.shape[-2:])


@torch.no_grad()
def predict_sliding(
    network: Network,
    images: Tensor,
    *,
    window: tuple[int, int],
    stride: tuple[int, int],
    batch: int,
    cut: bool = False,
    size: tuple[int, int] | None = None,
) -> Tensor:
    """Logits, or probabilities if `cut`, (B, K, H, W) float32, averaged over overlapping windows.

    Args:
        images: (B, 3, h, w) normalised; smaller than the window they are padded with 0 and the result is cut back.
        window, stride: height and width, pixels; see `window_starts`.
        batch: windows in one forward pass; only that many are in memory at once.
        cut: windows begin at every multiple of the stride and end with the image, and softmax is averaged (UniMatch);
            else the last window is moved back and logits are averaged (released code).
        size: of the result; their own if not given.
    """
    height, width = images.shape[-2:]
    padded = images if cut else F.pad(images, (0, max(0, window[1] - width), 0, max(0, window[0] - height)))
    total = hits = None
    for chunk in in_batches(window_places(padded.shape, window, stride, cut), batch):
        cuts = torch.stack([padded[i, :, rows, columns] for i, rows, columns in chunk])
        logits = resize_logits(network(cuts), cuts.shape[-2:])
        parts = logits.softmax(dim=1) if cut else logits
        if total is None:
            total = parts.new_zeros(len(images), parts.shape[1], *padded.shape[-2:])
            hits = parts.new_zeros(len(images), 1, *padded.shape[-2:])
        for (i, rows, columns), part in zip(chunk, parts):
            total[i, :, rows, columns] += part
            hits[i, :, rows, columns] += 1
    return resize_logits((total / hits)[..., :height, :width], size or (height, width))


def window_places(
    shape: torch.Size, window: tuple[int, int], stride: tuple[int, int], cut: bool
) -> list[tuple[int, slice, slice]]:
    """Image number, rows and columns of every window of a batch (B, 3, H, W), those of one size one after the other."""
    spans = []
    for length, side, step in zip(shape[-2:], window, stride):
        starts = list(range(0, length, step)) if cut else window_starts(length, side, step)
        spans.append([slice(start, min(start + side, length)) for start in starts])
    places = [(i, rows, columns) for i in range(shape[0]) for rows in spans[0] for columns in spans[1]]
    return sorted(places, key=lambda place: extent(place[1:]))


def extent(spans: tuple[slice, slice]) -> tuple[int, int]:
    return spans[0].stop - spans[0].start, spans[1].stop - spans[1].start


def in_batches(places: list[tuple[int, slice, slice]], batch: int) -> Iterator[list[tuple[int, slice, slice]]]:
    """At most `batch` windows at a time, all of one size."""
    for _, group in itertools.groupby(places, key=lambda place: extent(place[1:])):
        group = list(group)
        yield from (group[first : first + batch] for first in range(0, len(group), batch))


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
    evaluation, size = setting.evaluation, tuple(images.shape[-2:])
    resized = resize_for_test(*size, short_side=evaluation.short_side, long_side=evaluation.long_side)
    pixels = normalise(images.to(setting.device), setting)
    views = [(scale, mirrored) for scale in evaluation.scales for mirrored in (False, True)[: 1 + evaluation.flip]]
    if len(views) == 1 and evaluation.mode == "whole":
        logits = network(resize_pixels(pixels, resized, views[0][0]))
        # argmax image by image: at full size the logits of a batch can be larger than the network itself
        return torch.stack([resize_logits(one[None], size)[0].argmax(dim=0) for one in logits])
    maps = []
    for one in pixels.split(1):
        scores = [read_view(network, resize_pixels(one, resized, scale), mirrored, size, setting) for scale, mirrored in views]
        # probabilities are averaged over views; a single view needs no softmax to be compared with itself
        scores = scores if len(scores) == 1 else [as_probabilities(score, evaluation) for score in scores]
        maps.append(sum(scores).argmax(dim=1))
    return torch.cat(maps)


def read_view(network: Network, pixels: Tensor, mirrored: bool, size: tuple[int, int], setting: Setting) -> Tensor:
    """Scores (1, K, H, W) of one scale of an image, mirrored or not, whole or in windows."""
    evaluation = setting.evaluation
    pixels = pixels.flip(3) if mirrored else pixels
    if evaluation.mode == "whole":
        scores = predict_whole(network, pixels, size=size)
    else:
        options = {"window": setting.window, "stride": setting.stride, "batch": evaluation.batch, "size": size}
        scores = predict_sliding(network, pixels, cut=evaluation.windows == "cut", **options)
    return scores.flip(3) if mirrored else scores


def as_probabilities(scores: Tensor, evaluation: Evaluation) -> Tensor:
    """Cut windows give probabilities already."""
    return scores if evaluation.mode == "sliding" and evaluation.windows == "cut" else scores.softmax(dim=1)


def resize_pixels(pixels: Tensor, resized: tuple[int, int], scale: float) -> Tensor:
    """Normalised images at the test size times a scale; bilinear with antialiasing, as the training crops are."""
    target = tuple(max(1, int(side * scale + 0.5)) for side in resized)
    if target == tuple(pixels.shape[-2:]):
        return pixels
    return F.interpolate(pixels, size=target, mode="bilinear", align_corners=False, antialias=True)


def normalise(images: Tensor, setting: Setting) -> Tensor:
    """(B, 3, H, W) uint8 to float32 with the mean and deviation that the weights expect."""
    mean, std = (torch.tensor(values, dtype=torch.float32, device=images.device) for values in (setting.mean, setting.std))
    return (images.float() / 255 - mean[:, None, None]) / std[:, None, None]


def batches_of_one_size(items: Iterable[Any], batch: int, *, patience: int = 8) -> Iterator[list[Any]]:
    """Groups items by the size of their image, `batch` at a time, every item exactly once.

    At most `patience` batches' worth of items wait for company; then the largest group goes as it is.
    """
    waiting: dict[tuple[int, ...], list[Any]] = {}
    for item in items:
        size = tuple(item.image.shape)
        waiting.setdefault(size, []).append(item)
        if len(waiting[size]) < batch and sum(map(len, waiting.values())) >= patience * batch:
            size = max(waiting, key=lambda key: len(waiting[key]))
        elif len(waiting[size]) < batch:
            continue
        yield waiting.pop(size)
    yield from waiting.values()


def predictions(
    networks: dict[str, Network],
    dataset: Any,
    setting: Setting,
    *,
    limit: int = 0,
    process_index: int = 0,
    num_processes: int = 1,
) -> Iterator[tuple[list[Any], dict[str, Tensor]]]:
    """Class maps of several networks in one pass over the data.

    Args:
        networks: by name.
        dataset: a sequence of items with `image` (3, H, W) uint8, `labels` (H, W) long and `id`.
        limit: only the first images; 0 = all.
        process_index, num_processes: image i belongs to process i % num_processes, so none is seen twice.

    Yields:
        items of one size, and per network their maps (B, H, W) long on the setting's device.
    """
    end = min(limit, len(dataset)) if limit else len(dataset)
    mine = (dataset[i] for i in range(process_index, end, num_processes))
    for items in batches_of_one_size(mine, setting.evaluation.batch):
        images = torch.stack([item.image for item in items])
        yield items, {name: predict(network, images, setting) for name, network in networks.items()}


def evaluate_networks(
    networks: dict[str, Network], dataset: Any, setting: Setting, *, num_classes: int, **part: int
) -> dict[str, ConfusionMatrix]:
    """One confusion matrix per network over this process's share of the data; the caller sums over the processes.

    `part` is `limit`, `process_index` and `num_processes` of `predictions`.
    """
    matrices = {name: ConfusionMatrix(num_classes, device=setting.device) for name in networks}
    for items, maps in predictions(networks, dataset, setting, **part):
        count(matrices, items, maps)
    return matrices


def count(matrices: dict[str, ConfusionMatrix], items: Sequence[Any], maps: dict[str, Tensor]) -> None:
    """Adds what `predictions` yields to the matrix of each network."""
    labels = torch.stack([item.labels for item in items])
    for name, matrix in matrices.items():
        matrix.update(maps[name], labels.to(maps[name].device))
