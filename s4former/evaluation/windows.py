"""Windows that slide over an image, and scores that leave in bands of rows: large images in bounded memory.

Scores of a whole image are K planes of its size, gigabytes for a photo of 50 megapixels. Here rows of them are handed on
as soon as no later window can reach them, so that at no moment there are more than a window's height of them.
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


def extent(span: Span) -> tuple[int, int]:
    return span[0].stop - span[0].start, span[1].stop - span[1].start


def in_batches(places: list[Span], batch: int) -> Iterator[list[Span]]:
    """At most `batch` windows at a time, all of one size."""
    for _, group in itertools.groupby(places, key=extent):
        group = list(group)
        yield from (group[first : first + batch] for first in range(0, len(group), batch))


@torch.no_grad()
def sliding_rows(
    network: Callable[[Tensor], Tensor],
    image: Tensor,
    *,
    window: tuple[int, int],
    stride: tuple[int, int],
    batch: int,
    cut: bool = False,
    ready: Callable[[Tensor], Tensor] = lambda images: images,
) -> Iterator[Tensor]:
    """The scores of an image, averaged over overlapping windows, in chunks of finished rows from top to bottom.

    Args:
        network: images (B, 3, h, w) to logits at any resolution.
        image: (3, H, W); smaller than a window it is padded with 0 and the result is cut back.
        window, stride: height and width, pixels; see `window_starts`.
        batch: windows in one forward pass; only that many are in memory at once.
        cut: windows begin at every multiple of the stride and end with the image, and softmax is averaged (UniMatch);
            else the last window is moved back and logits are averaged (released code).
        ready: makes of pixels what the network takes; window by window, so that a large photo may stay uint8.

    Yields:
        (K, n, W) float32, at most a window's height of rows (more only where a batch spans several rows of windows).
    """
    height, width = image.shape[-2:]
    chunks = list(in_batches(window_places((height, width), window, stride, cut), batch))
    followers = [chunk[0][0].start for chunk in chunks[1:]] + [height]  # above it every row is finished
    top, sums = 0, None  # sums: (K + 1, n, W) of rows top .. top + n - 1; the last plane counts the windows
    for chunk, finished in zip(chunks, followers):
        cuts = ready(torch.stack([image[:, rows, columns] for rows, columns in chunk]))
        if not cut:
            cuts = F.pad(cuts, (0, window[1] - cuts.shape[-1], 0, window[0] - cuts.shape[-2]))
        logits = resize_logits(network(cuts), cuts.shape[-2:])
        parts = logits.softmax(dim=1) if cut else logits
        sums = with_rows(sums, (parts.shape[1] + 1, max(rows.stop for rows, _ in chunk) - top, width), like=parts)
        for (rows, columns), part in zip(chunk, parts):
            own = sums[:, rows.start - top : rows.stop - top, columns]
            own[:-1] += part[:, : own.shape[1], : own.shape[2]]
            own[-1] += 1
        if finished > top:
            yield sums[:-1, : finished - top] / sums[-1, : finished - top]
            top, sums = finished, sums[:, finished - top :]


def with_rows(sums: Tensor | None, shape: tuple[int, int, int], *, like: Tensor) -> Tensor:
    """The sums so far, with rows of zeros below them up to `shape`."""
    if sums is not None and sums.shape[1] >= shape[1]:
        return sums
    grown = like.new_zeros(shape)
    if sums is not None:
        grown[:, : sums.shape[1]] = sums
    return grown


@torch.no_grad()
def resized_bands(chunks: Iterable[Tensor], height: int, size: tuple[int, int], most: int = 0) -> Iterator[Tensor]:
    """Scores that come in chunks of rows (K, n, w), `height` rows in all, bilinearly resized to `size`, in bands of rows.

    Bands hold at most `most` values (0 = BAND), and depend on K and `size` only: those of several views of an image go
    together.

    Yields:
        (K, m, W) float32, from top to bottom.
    """
    chunks = iter(chunks)
    held, first = next(chunks), 0  # rows first, first + 1, ... of the scores
    deep = max(1, (most or BAND) // (held.shape[0] * size[1]))
    if deep >= size[0]:
        yield resize_logits(torch.cat([held, *chunks], dim=1)[None], size)[0]
        return
    for top in range(0, size[0], deep):
        rows = torch.arange(top, min(top + deep, size[0]), device=held.device, dtype=torch.float64)
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
