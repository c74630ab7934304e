"""The image processor and the pipeline of a model that was trained on images of more than 8 bits.

The file imports Pillow, numpy, torch and transformers only. Where training had `data.levels`, it is saved beside the
weights, and both load with `trust_remote_code=True`; without it transformers refuses to load them.
"""

import io
import re
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from transformers.utils.versions import require_version

require_version("transformers>=5.17", "pip install -U transformers")

from transformers import ImageSegmentationPipeline, SegformerImageProcessor


class DeepImageProcessor(SegformerImageProcessor):
    """Values of more than 8 bits become 8 bits, as in training; then as the stock processor.

    `rescale_factor` and `image_mean` are those of the values themselves: `value * rescale_factor - image_mean` is what the
    stock processor would divide by the deviation, which differs by less than a grey level of 8 bits.
    """

    levels = (0.0, 1.0)  # the values that become black and white

    def __init__(self, levels: tuple[float, float] | None = None, **kwargs):
        super().__init__(**kwargs)
        self.levels = tuple(levels or self.levels)

    def process_image(self, image: Image.Image | np.ndarray | torch.Tensor, **kwargs) -> torch.Tensor:
        """RGB uint8 (3, H, W) of values (H, W), (H, W, C) or (C, H, W).

        Raises:
            ValueError: the image has 8 bits.
        """
        values = np.asarray(image)
        low, high = self.levels
        if values.dtype == np.uint8:
            raise ValueError(
                f"this model reads images of more than 8 bits, of which {low:g} is black and {high:g} white, and this one has"
                ' 8; give the values of the file, as deep_images.read_values("photo.tif") or its pipeline reads them'
            )
        grey = (np.where(np.isfinite(values), values, low).astype(np.float64) - low) * (255 / (high - low))
        return super().process_image((grey.clip(0, 255) + 0.5).astype(np.uint8), **{**kwargs, "do_convert_rgb": True})

    def rescale_and_normalize(self, images, do_rescale, rescale_factor, do_normalize, image_mean, image_std):
        mean = [value - self.levels[0] * rescale_factor for value in image_mean]
        return super().rescale_and_normalize(images, do_rescale, 1 / 255, do_normalize, tuple(mean), tuple(image_std))


def read_values(file: str | Image.Image) -> np.ndarray:
    """The values (H, W, 3) of an image, upright; of a file of 16-bit colour, of which Pillow gives the high bytes, both bytes."""
    content = Path(file).read_bytes() if isinstance(file, str) else b""
    image, low = (Image.open(io.BytesIO(content)), Image.open(io.BytesIO(content))) if content else (file, None)
    arguments = low.tile[0][3] if low and low.tile else ""
    raw, *rest = [arguments] if isinstance(arguments, str) else arguments
    values = np.asarray(ImageOps.exif_transpose(image))
    if re.fullmatch(r"RGB.?;16[BLN]", str(raw)):
        big = raw.endswith("B") or raw.endswith("N") and sys.byteorder == "big"
        swapped = raw[:-1] + ("L" if big else "B")
        low.tile = [(*tile[:3], (swapped, *rest) if rest else swapped) for tile in low.tile]
        values = 256.0 * values + np.asarray(ImageOps.exif_transpose(low))
    return np.repeat(values[..., None], 3, axis=2) if values.ndim == 2 else values[..., :3]


class DeepImagePipeline(ImageSegmentationPipeline):
    """The image-segmentation pipeline, which keeps the values of an image instead of clipping them at 255."""

    def preprocess(self, image: str | Image.Image, subtask: str | None = None, timeout: float | None = None):
        values = read_values(image)
        inputs = self.image_processor(images=[values], return_tensors="pt").to(self.dtype)
        inputs["target_size"] = [values.shape[:2]]
        return inputs


DeepImageProcessor.register_for_auto_class()
