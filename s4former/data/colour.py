"""Colour on a training view: the photometric distortion of the paper, UniMatch's jitter, AugSeg's random intensity.

A strong colour takes an image (h, w, 3) uint8 RGB and a generator, and returns such an image; padding has to be masked
afterwards.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

HUE_STEPS = 255  # of a turn in Pillow, where 255 is red again like 0
IDENTITY = 3 * list(range(256))  # the table that changes nothing


@dataclass(frozen=True, kw_only=True)
class Colour:
    """One draw of the photometric distortion; the defaults change nothing."""

    brightness: float = 0.0  # added, in grey levels
    contrast: float = 1.0  # factor
    contrast_last: bool = False  # after saturation and hue instead of before them
    saturation: float = 1.0  # factor
    hue: int = 0  # added, in steps of 2 degrees

    @property
    def changes_hsv(self) -> bool:
        return self.saturation != 1 or self.hue != 0


def draw_colour(rng: np.random.Generator) -> Colour:
    """Draws which of the four changes happen, each with probability one half, and how strong they are."""
    happens = rng.random(5) < 0.5
    brightness, contrast, saturation = rng.uniform(-32, 32), rng.uniform(0.5, 1.5), rng.uniform(0.5, 1.5)
    hue = int(rng.integers(-18, 18))
    return Colour(
        brightness=brightness if happens[0] else 0.0,
        contrast=contrast if happens[1] else 1.0,
        contrast_last=bool(happens[2]),
        saturation=saturation if happens[3] else 1.0,
        hue=hue if happens[4] else 0,
    )


def apply_colour(image: np.ndarray, colour: Colour) -> np.ndarray:
    """An image (h, w, 3) uint8 RGB under brightness, contrast, saturation, hue and perhaps only then contrast; clipped after each."""
    first, hsv, last = colour_tables(colour).reshape(3, -1).tolist()
    picture = Image.fromarray(image)
    if first != IDENTITY:
        picture = picture.point(first)
    if colour.changes_hsv:
        picture = picture.convert("HSV").point(hsv).convert("RGB")
    return np.asarray(picture.point(last) if last != IDENTITY else picture)


def colour_tables(colour: Colour) -> np.ndarray:
    """(3, 3, 256) uint8: the new values of each channel in RGB, then in HSV, then in RGB again.

    Each change maps 256 values to 256 values, so it is a table, and tables in a row are one. Hue and saturation share
    one trip to HSV and back. The hue circle has 180 steps of 2 degrees in the released code (OpenCV) and 255 in
    Pillow, where 255 is red again like 0; the drawn whole step is scaled to it and rounded.
    """
    grey = np.arange(256)
    contrast = truncate(grey * colour.contrast)
    first = truncate(grey + colour.brightness)
    last = contrast if colour.contrast_last else grey
    first = first if colour.contrast_last else contrast[first]
    hsv = shift_hues(colour.hue / 180), truncate(grey * colour.saturation), grey
    return np.stack([[first] * 3, hsv, [last] * 3]).astype(np.uint8)


def shift_hues(turns: float) -> np.ndarray:
    """(256,): Pillow's hues, moved round the circle."""
    return (np.arange(256) + round(turns * HUE_STEPS)) % HUE_STEPS


def truncate(values: np.ndarray) -> np.ndarray:
    """Grey levels as whole numbers from 0 to 255: clipped, the fraction cut off."""
    return np.clip(values, 0, 255).astype(np.uint8)


# ---- UniMatch

ENHANCERS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


@dataclass(frozen=True, kw_only=True)
class Jitter:
    """One draw of UniMatch's colours; the defaults change nothing."""

    order: tuple[int, ...] = ()  # of the changes below: brightness, contrast, saturation, hue
    factors: tuple[float, float, float] = (1.0, 1.0, 1.0)
    hue: float = 0.0  # turns
    grey: bool = False
    blur: float = 0.0  # standard deviation in pixels


def draw_jitter(rng: np.random.Generator) -> Jitter:
    """Draws a jitter for four of five images, grey for one in five, a blur for one in two (UniMatch, CVPR 2023).

    Brightness, contrast and saturation change by factors of 0.5 to 1.5, the hue by up to a quarter, in a random order.
    """
    order, factors, hue = (), (1.0, 1.0, 1.0), 0.0
    if rng.random() < 0.8:
        factors, hue = tuple(rng.uniform(0.5, 1.5, 3)), rng.uniform(-0.25, 0.25)
        order = tuple(rng.permutation(4))
    grey = rng.random() < 0.2
    return Jitter(order=order, factors=factors, hue=hue, grey=grey, blur=rng.uniform(0.1, 2.0) if rng.random() < 0.5 else 0.0)


def apply_jitter(image: np.ndarray, draw: Jitter) -> np.ndarray:
    """The changes of a draw on an image (h, w, 3) uint8 RGB, then grey, then blur."""
    picture = Image.fromarray(image)
    for number in draw.order:
        if number < 3:
            picture = ENHANCERS[number](picture).enhance(draw.factors[number])
        else:
            picture = shift_hue(picture, draw.hue)
    if draw.grey:
        picture = picture.convert("L").convert("RGB")
    if draw.blur:
        picture = picture.filter(ImageFilter.GaussianBlur(draw.blur))
    return np.array(picture)


def shift_hue(picture: Image.Image, turns: float) -> Image.Image:
    """Every colour moved round the hue circle by a number of turns."""
    return picture.convert("HSV").point(shift_hues(turns).tolist() + IDENTITY[256:]).convert("RGB")


# ---- AugSeg, iMAS

Change = Callable[[Image.Image, np.random.Generator], Image.Image]


def intensities(least: float) -> tuple[Change, ...]:
    """The eleven changes, each with its strength drawn uniformly; `least` is the smallest factor of contrast and the like."""
    return (
        lambda picture, rng: picture,
        lambda picture, rng: ImageOps.autocontrast(picture),
        lambda picture, rng: ImageOps.equalize(picture),
        lambda picture, rng: picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.1, 2.0))),
        lambda picture, rng: ImageEnhance.Contrast(picture).enhance(rng.uniform(least, 0.95)),
        lambda picture, rng: ImageEnhance.Brightness(picture).enhance(rng.uniform(least, 0.95)),
        lambda picture, rng: ImageEnhance.Color(picture).enhance(rng.uniform(least, 0.95)),
        lambda picture, rng: ImageEnhance.Sharpness(picture).enhance(rng.uniform(least, 0.95)),
        lambda picture, rng: ImageOps.posterize(picture, int(rng.integers(4, 8))),
        lambda picture, rng: ImageOps.solarize(picture, int(rng.integers(1, 256))),
        lambda picture, rng: shift_hue(picture, rng.uniform(-0.5, 0.5)),
    )


INTENSITIES = intensities(0.05)
RANDAUGMENT = (*intensities(0.1), lambda picture, rng: ImageOps.invert(picture))


def change(image: np.ndarray, rng: np.random.Generator, changes: Sequence[Change], count: int) -> np.ndarray:
    """So many of the changes one after the other, each drawn anew."""
    picture = Image.fromarray(image)
    for number in rng.integers(len(changes), size=count):
        picture = changes[number](picture, rng)
    return np.array(picture)


# Config word -> the colours of a strong view.
STRONG_COLOURS: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "none": lambda image, rng: image,
    "photometric": lambda image, rng: apply_colour(image, draw_colour(rng)),
    "jitter": lambda image, rng: apply_jitter(image, draw_jitter(rng)),
    "random_intensity": lambda image, rng: change(image, rng, INTENSITIES, rng.integers(1, 4)),  # AugSeg, CVPR 2023
    "randaugment": lambda image, rng: change(image, rng, RANDAUGMENT, 2),  # iMAS, CVPR 2023
}
