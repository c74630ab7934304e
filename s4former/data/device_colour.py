"""The colours of training views on the device, for a whole batch: what colour.py computes on the host with Pillow.

Loader workers only draw them, and pack each draw into tensors that travel with the batch. Conversions between colour
spaces are looked up in tables that Pillow itself filled, so that the photometric distortion is the host's to the bit;
the jitter, with its blur, to within a grey level.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..config import Method
from ..method.batch import Batch, Strong
from .colour import Colour, Jitter, colour_tables, draw_colour, draw_jitter, shift_hues

BLUR_TAPS = 5  # of one of the three box filters that approximate a Gaussian of a standard deviation of at most 2


class DeviceColour(NamedTuple):
    """draw: of one image. pack: draws to tensors by name. apply: images (B, 3, H, W) uint8 and those tensors to images."""

    draw: Callable[[np.random.Generator], Any]
    pack: Callable[[Sequence[Any]], dict[str, Tensor]]
    apply: Callable[..., Tensor]


def colour_on_device(batch: Batch, method: Method) -> Batch:
    """The batch, uint8 on the device, with the colours that its draws describe."""

    def coloured(view: Strong) -> Strong:
        if not view.colours:
            return view
        return replace(view, images=DEVICE_COLOURS[method.strong_colour].apply(batch.weak, **view.colours), colours={})

    return replace(
        batch,
        labeled=photometric(batch.labeled, **batch.labeled_colours) if batch.labeled_colours else batch.labeled,
        weak=photometric(batch.weak, **batch.weak_colours) if batch.weak_colours else batch.weak,
        strong=tuple(map(coloured, batch.strong)), labeled_colours={}, weak_colours={},
    )  # fmt: skip


# ---- photometric distortion


def pack_photometric(draws: Sequence[Colour]) -> dict[str, Tensor]:
    """tables (B, 3, 3, 256) uint8: see `colour_tables`. hsv (B, 1, 1, 1) bool: whether the second is used."""
    tables = torch.from_numpy(np.stack([colour_tables(draw) for draw in draws]))
    return {"tables": tables, "hsv": torch.tensor([draw.changes_hsv for draw in draws])[:, None, None, None]}


def photometric(images: Tensor, tables: Tensor, hsv: Tensor) -> Tensor:
    """`apply_colour` on each image."""
    images = look_up(images, tables[:, 0])
    images = torch.where(hsv, change_hsv(images, tables[:, 1]), images)
    return look_up(images, tables[:, 2])


def look_up(images: Tensor, tables: Tensor) -> Tensor:
    """images (B, 3, H, W) uint8 through tables (B, 3, 256) uint8."""
    return tables.gather(2, images.flatten(2).long()).view_as(images)


def change_hsv(images: Tensor, tables: Tensor) -> Tensor:
    """Images (B, 3, H, W) uint8 RGB, their hue, saturation and value through tables (B, 3, 256)."""
    hsv = convert(images, conversion("RGB", "HSV", images.device))
    return convert(look_up(hsv, tables), conversion("HSV", "RGB", images.device))


def convert(images: Tensor, table: Tensor) -> Tensor:
    first, second, third = images.int().unbind(1)
    packed = table[first << 16 | second << 8 | third]
    return torch.stack([packed >> 16, packed >> 8 & 255, packed & 255], dim=1).to(torch.uint8)


@lru_cache(maxsize=None)
def conversion(source: str, target: str, device: torch.device) -> Tensor:
    """(2^24,) int32, 64 MiB: each colour, its channels as the bytes of a number, in another space as Pillow converts it."""
    numbers = np.arange(2**24, dtype=np.uint32)
    colours = np.stack([numbers >> 16, numbers >> 8 & 255, numbers & 255], axis=1).astype(np.uint8)
    converted = np.asarray(Image.frombytes(source, (4096, 4096), colours.tobytes()).convert(target)).reshape(-1, 3)
    return torch.from_numpy(converted.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)).to(device)


# ---- jitter


def pack_jitter(draws: Sequence[Jitter]) -> dict[str, Tensor]:
    """order (4, B, 1, 1, 1): numbers of the changes, -1 = none. factors (3, B, 1, 1, 1). hues (B, 256) uint8. grey (B, 1, 1, 1).
    blur (BLUR_TAPS, B, 1, 1, 1): the weights of a box filter, those of a pixel alone where nothing is blurred."""

    def column(values: list, dtype: torch.dtype) -> Tensor:
        return torch.tensor(values, dtype=dtype).T.reshape(-1, len(draws), 1, 1, 1)

    hues = [shift_hues(draw.hue) for draw in draws]
    return {
        "order": column([draw.order or (-1,) * 4 for draw in draws], torch.int64),
        "factors": column([draw.factors for draw in draws], torch.float32),
        "hues": torch.from_numpy(np.stack(hues).astype(np.uint8)),
        "grey": column([[draw.grey] for draw in draws], torch.bool)[0],
        "blur": column([box_weights(draw.blur) for draw in draws], torch.float32),
    }


def jitter(images: Tensor, order: Tensor, factors: Tensor, hues: Tensor, grey: Tensor, blur: Tensor) -> Tensor:
    """`apply_jitter` on each image."""
    identity = torch.arange(256, dtype=torch.uint8, device=images.device).expand_as(hues)
    hues = torch.stack([hues, identity, identity], dim=1)
    changes = (
        lambda x: blend(torch.zeros_like(x), x, factors[0]),
        lambda x: blend((to_grey(x).double().mean(dim=(1, 2, 3), keepdim=True) + 0.5).floor(), x, factors[1]),
        lambda x: blend(to_grey(x), x, factors[2]),
        lambda x: change_hsv(x, hues),
    )
    for numbers in order:
        changed = images
        for number, change in enumerate(changes):
            changed = torch.where(numbers == number, change(images), changed)
        images = changed
    images = torch.where(grey, to_grey(images), images)
    for axis in (3, 2):
        for _ in range(3):
            images = box_filter(images, blur, axis)
    return images


def blend(first: Tensor, second: Tensor, share: Tensor) -> Tensor:
    """`share` (B, 1, 1, 1) of the second images and the rest of the first; beyond 1 it goes on, clipped and truncated."""
    first, second = first.float(), second.float()
    return (first + share * (second - first)).clamp(0, 255).to(torch.uint8)


def to_grey(images: Tensor) -> Tensor:
    """(B, 1, H, W) uint8: the luma of ITU-R 601 as Pillow rounds it."""
    red, green, blue = images.int().split(1, dim=1)
    return (19595 * red + 38470 * green + 7471 * blue + 0x8000 >> 16).to(torch.uint8)


def box_weights(sigma: float) -> list[float]:
    """(BLUR_TAPS,): the box of fractional width that, used three times, approximates a Gaussian as Pillow does (Gwosdek et
    al., SSVM 2011)."""
    variance = sigma * sigma / 3
    whole = int((np.sqrt(12 * variance + 1) - 1) / 2)
    edge = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1) ** 2))
    outside = BLUR_TAPS // 2 - whole - 1
    weights = [0.0] * outside + [edge] + [1.0] * (2 * whole + 1) + [edge] + [0.0] * outside
    return [weight / (2 * (whole + edge) + 1) for weight in weights]


def box_filter(images: Tensor, weights: Tensor, axis: int) -> Tensor:
    """One pass along an axis, with the outermost pixels repeated, rounded."""
    reach, size = BLUR_TAPS // 2, images.shape[axis]
    padded = F.pad(images.float(), [reach, reach, 0, 0] if axis == 3 else [0, 0, reach, reach], mode="replicate")
    total = sum(weight * padded.narrow(axis, start, size) for start, weight in enumerate(weights))
    return (total + 0.5).to(torch.uint8)


# Config word -> the colours of a strong view that a device can give.
DEVICE_COLOURS = {
    "photometric": DeviceColour(draw_colour, pack_photometric, photometric),
    "jitter": DeviceColour(draw_jitter, pack_jitter, jitter),
}
