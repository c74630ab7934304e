"""The image processor beside the weights: the sizes that are scored, the image levels, and the constants read back from it."""

from pathlib import Path
from typing import Any, Iterable

from transformers import SegformerImageProcessor
from transformers.image_transforms import get_size_with_aspect_ratio

from ..errors import ConfigError

Normalization = tuple[tuple[float, ...], tuple[float, ...]]  # mean and standard deviation of RGB in 0..1
PROCESSOR = "preprocessor_config.json"
PROCESSORS = (PROCESSOR, "processor_config.json")  # the second of models of images and texts
# In config.json, of a model that was trained on images of more than 8 bits: what opens a file without clipping it.
PIPELINES = {"image-segmentation": {"impl": "deep_images.DeepImagePipeline", "pt": ["AutoModelForSemanticSegmentation"]}}


def processor_size(size: tuple[int, int], short_side: int, long_side: int) -> tuple[int, int]:
    """(height, width) to which a processor of transformers with these two edges resizes an image of `size`."""
    height, width = get_size_with_aspect_ratio(size, short_side, long_side)
    return max(1, height), max(1, width)


def save_processor(
    folder: str | Path, mean: Iterable[float], std: Iterable[float], *,
    short_side: int, long_side: int = 0, levels: tuple[float, float] = (0.0, 0.0),
) -> None:  # fmt: skip
    """Writes the image processor of a folder: the stock one, or with `levels` that of deep_images.py and the file itself.

    Args:
        mean, std: of RGB in 0..1, those the network was trained with.
        short_side, long_side: to which the processor resizes an image; 0 = it keeps its size, it has no limit.
        levels: `data.levels`.
    """
    edges = {"shortest_edge": short_side, **({"longest_edge": long_side} if long_side else {})}
    options: dict[str, Any] = {"do_reduce_labels": False, "image_mean": list(mean), "image_std": list(std)}
    options |= {"size": edges} if short_side else {"do_resize": False}
    low, high = levels
    if low == high:
        SegformerImageProcessor(**options).save_pretrained(folder)
        return
    from .deep_images import DeepImageProcessor  # which takes the pipelines of transformers along

    options["image_mean"] = [value + low / (high - low) for value in options["image_mean"]]
    DeepImageProcessor(levels=[low, high], rescale_factor=1 / (high - low), **options).save_pretrained(folder)


def normalization_of(settings: dict[str, Any]) -> Normalization | None:
    """Mean and deviation, for RGB in 0..1, that the settings of an image processor amount to; None if they say nothing.

    Raises:
        ConfigError: the processor exchanges red and blue.
    """
    settings = settings.get("image_processor", settings)
    if settings.get("do_flip_channel_order"):
        raise ConfigError(
            f"its {PROCESSOR} has do_flip_channel_order: the network reads BGR, which nothing here gives it; turn the input"
            " channels of its first layer round and write false"
        )
    mean, std = settings.get("image_mean"), settings.get("image_std")
    if settings.get("do_normalize") is False:
        mean, std = (0.0,) * 3, (1.0,) * 3
    if mean is None or std is None:
        return None
    factor = settings.get("rescale_factor", 1 / 255) if settings.get("do_rescale", True) else 1.0
    low, high = settings.get("levels", (0, 255))
    gain = (high - low) * factor
    return tuple((value - low * factor) / gain for value in mean), tuple(value / gain for value in std)
