"""Class maps for users of the package: an image in, a class map out, with the settings that lie beside the weights."""

from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ..config import from_dict, merged
from ..data.images import is_deep, samples_of, to_eight_bits
from ..networks.adapters import forward_logits
from . import inference
from .model_choice import choose_model, read_mean_std


def predict(network: nn.Module, image: Image.Image | np.ndarray | Tensor, **evaluation: Any) -> Tensor:
    """The class map of an image at its own size, as `s4former predict` computes it.

    Args:
        network: what `load_network` returns; mean, deviation and the config's section evaluation are read beside its weights.
        image: a PIL image, an array (H, W, 3) uint8, a tensor (3, H, W) uint8, or a batch (B, 3, H, W) uint8.
        evaluation: keys of that section, such as mode="sliding", scales=(0.75, 1, 1.25) or flip=True.

    Returns:
        (H, W) or (B, H, W) long on the device of the network.

    Raises:
        CheckpointError: there is no mean and deviation beside the weights.
        DataError: an image of more than 8 bits, and no data.levels beside the weights.
        ConfigError: a key or value that the section cannot have.
        TypeError: the image is not uint8.
    """
    source = network.name_or_path
    config = from_dict(merged(choose_model(source).config, {"evaluation": evaluation}))
    if isinstance(image, Image.Image):
        if is_deep(image.mode):
            image = to_eight_bits(samples_of(image), config.data.levels, f"has more than 8 bits per channel (mode {image.mode}")
        image = image.convert("RGB")
    if not isinstance(image, Tensor):
        image = torch.tensor(np.asarray(image)).permute(2, 0, 1)
    if image.dtype != torch.uint8:
        raise TypeError(f"the image is {image.dtype}; give RGB of 0 to 255 as uint8, not normalised")
    mean, std = read_mean_std(source)
    setting = inference.Setting(
        evaluation=config.evaluation, crop=config.data.crop, mean=mean, std=std, device=network.device
    )
    with inference.in_precision(config.evaluation.precision, network.device):
        return inference.predict(partial(forward_logits, network), image, setting)
