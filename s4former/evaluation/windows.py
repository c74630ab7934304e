"""Sliding windows, and scores in bands of rows: large images in bounded memory.

Scores of a whole image are K planes of its size, gigabytes for a photo of 50 megapixels. Here rows are yielded as soon as
no later window can reach them, so that at no moment there are more than a window's height of them.
"""

import itertools
from typing import Callable, Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from ..method.pseudo import resize_logits

BAND = 2**24  # values of one band of scores, 64 MiB in float32

Span = tuple[slice, slice]  # rows and columns of a window


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin along one side: multiples of the stride, the last one moved back to end with the image.

    One window at 0 where the image is not longer than the window.
    """
    if not 1 <= stride <= window:
        raise ValueError(f"the stride is {stride} for windows of {window} pixels; use 1 to {window}, or pixels are missed")
    last = max(0, length - window)
    return [*range(0, last, stride), last]


def window_places(size: tuple[int, int], window: tuple[int, int], stride: tuple[int, int], cut: bool) -> list[Span]:
    """Rows and columns of every window of an image of `size`, from top to bottom; see `sliding_rows`."""
    spans = []
    for length, side, step in zip(size, window, stride):
        starts = list(range(0, length, step)) if cut else window_starts(length, side, step)
        spans.append([slice(start, min(start + side, length)) for start in starts])
    return list(itertools.product(*spans))


def in_batches(places: list[Span], batch: int) -> Iterator[list[Span]]:
    """At most `batch` windows at a time, all of one size."""
    for _, group in itertools.groupby(places, key=lambda span: [side.stop - side.start for side in span]):
        while spans := list(itertools.islice(group, batch)):
            yield spans


@torch.no_grad()
def sliding_rows(
    network: Callable[[Tensor], Tensor], image: Tensor, *, window: tuple[int, int], stride: tuple[int, int], batch: int,
    cut: bool = False, normalise: Callable[[Tensor], Tensor] = lambda images: images,
) -> Iterator[Tensor]:  # fmt: skip
    """The scores of an image, averaged over overlapping windows, in chunks of finished rows from top to bottom.

    Args:
        network: images (B, 3, h, w) to logits at any resolution.
        image: (3, H, W); smaller than a window it is padded with 0 and the result is cut back.
        window, stride: height and width, pixels; see `window_starts`.
        batch: windows in one forward pass; only that many are in memory at once.
        cut: windows begin at every multiple of the stride and end with the image, and softmax is averaged (UniMatch);
            else the last window is moved back and logits are averaged (released code).
        normalise: applied to the pixels of each batch of windows, so that a large photo may stay uint8.

    Yields:
        (K, n, W) float32, at most a window's height of rows (more only where a batch spans several rows of windows).
    """
    height, width = image.shape[-2:]
    batches = list(in_batches(window_places((height, width), window, stride, cut), batch))
    unfinished = [spans[0][0].start for spans in batches[1:]] + [height]  # the first row that later windows reach
    top, sums = 0, None  # sums: (K + 1, n, W) of rows top .. top + n - 1; the last plane counts the windows
    for spans, end in zip(batches, unfinished):
        crops = normalise(torch.stack([image[:, rows, columns] for rows, columns in spans]))
        if not cut:
            crops = F.pad(crops, (0, window[1] - crops.shape[-1], 0, window[0] - crops.shape[-2]))
        scores = resize_logits(network(crops), crops.shape[-2:])
        scores = scores.softmax(dim=1) if cut else scores
        if sums is None:
            sums = scores.new_zeros(scores.shape[1] + 1, 0, width)
        missing = max(rows.stop for rows, _ in spans) - top - sums.shape[1]
        sums = F.pad(sums, (0, 0, 0, missing)) if missing > 0 else sums
        for (rows, columns), part in zip(spans, scores):
            reached = sums[:, rows.start - top : rows.stop - top, columns]
            reached[:-1] += part[:, : reached.shape[1], : reached.shape[2]]
            reached[-1] += 1
        if end > top:
            yield sums[:-1, : end - top] / sums[-1, : end - top]
            top, sums = end, sums[:, end - top :]


@torch.no_grad()
def resized_bands(chunks: Iterable[Tensor], height: int, size: tuple[int, int], most: int = 0) -> Iterator[Tensor]:
    """Scores in chunks of rows (K, n, w), `height` rows in all, bilinearly resized to `size`.

    Yields:
        (K, m, W) float32, from top to bottom, in bands of at most `most` values (0 = BAND) that depend on K and `size` only:
        those of several views of an image go together.
    """
    chunks = iter(chunks)
    held, first = next(chunks), 0  # rows first, first + 1, ... of the scores
    rows_per_band = max(1, (most or BAND) // (held.shape[0] * size[1]))
    if rows_per_band >= size[0]:
        yield resize_logits(torch.cat([held, *chunks], dim=1)[None], size)[0]
        return
    for top in range(0, size[0], rows_per_band):
        rows = torch.arange(top, min(top + rows_per_band, size[0]), device=held.device, dtype=torch.float64)
        places = ((rows + 0.5) * height / size[0] - 0.5).clamp(min=0)  # as interpolate with align_corners=False
        above = places.long()
        below = (above + 1).clamp(max=height - 1)
        while first + held.shape[1] <= int(below[-1]):
            held = torch.cat([held, next(chunks)], dim=1)
        held, first = held[:, int(above[0]) - first :], int(above[0])
        band = held[:, above - first]
        if height != size[0]:
            band = torch.lerp(band, held[:, below - first], (places - above).to(held.dtype)[:, None])
        yield resize_logits(band[None], (len(rows), size[1]))[0]
